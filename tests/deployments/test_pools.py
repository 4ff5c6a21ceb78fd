import asyncio
from typing import Any

import pytest

from deployments.declared import POOL_TYPES, PoolType, read_job_template


def worker_class(pool_type: PoolType) -> Any:
    if pool_type == "docker":
        from prefect_docker.worker import DockerWorker

        return DockerWorker
    if pool_type == "kubernetes":
        from prefect_kubernetes.worker import KubernetesWorker

        return KubernetesWorker
    from prefect.workers.process import ProcessWorker

    return ProcessWorker


def configuration(pool_type: PoolType, values: dict[str, Any]) -> Any:
    """What a worker makes of the template and the job variables of a deployment."""
    kind = worker_class(pool_type).job_configuration
    return asyncio.run(kind.from_template_and_values(read_job_template(pool_type), values))


@pytest.mark.parametrize("pool_type", POOL_TYPES)
def test_a_template_knows_every_variable_of_prefects_own(pool_type: PoolType) -> None:
    ours, theirs = read_job_template(pool_type), worker_class(pool_type).get_default_base_job_template()

    assert set(theirs["variables"]["properties"]) <= set(ours["variables"]["properties"])
    assert set(theirs["job_configuration"]) == set(ours["job_configuration"])


@pytest.mark.parametrize("pool_type", POOL_TYPES)
@pytest.mark.usefixtures("own_server")
def test_the_worker_takes_the_template_and_adds_the_environment_of_a_deployment(pool_type: PoolType) -> None:
    made = configuration(pool_type, {"env": {"PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true"}})

    assert made.env["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] == "true"
    assert made.env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


@pytest.mark.usefixtures("own_server")
def test_a_docker_run_gets_image_volumes_networks_and_memory() -> None:
    values = {"image": "shearline:1", "volumes": ["/data:/data"], "networks": ["prefect"], "mem_limit": "8g"}
    made = configuration("docker", values)

    assert (made.image, made.volumes, made.networks, made.mem_limit) == tuple(values.values())
    assert made.image_pull_policy == "IfNotPresent"
    assert made.container_create_kwargs["user"] == "10001:10001"
    assert made.auto_remove


@pytest.mark.usefixtures("own_server")
def test_a_kubernetes_run_gets_image_resources_secrets_and_scratch() -> None:
    made = configuration("kubernetes", {"image": "shearline:1", "memory_limit": "24Gi", "scratch_size": "50Gi"})
    pod = made.job_manifest["spec"]["template"]["spec"]
    [container] = pod["containers"]

    assert container["image"] == "shearline:1"
    assert container["resources"]["limits"]["memory"] == "24Gi"
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "8Gi"}
    assert container["envFrom"] == [{"secretRef": {"name": "shearline-s3", "optional": True}}]
    assert pod["volumes"] == [{"name": "scratch", "emptyDir": {"sizeLimit": "50Gi"}}]
    assert pod["securityContext"]["runAsNonRoot"]
    assert made.env["TMPDIR"] == "/scratch"


@pytest.mark.parametrize("pool_type", POOL_TYPES)
def test_the_server_takes_a_pool_with_the_template_and_checks_job_variables_by_it(
    own_server: dict[str, str], pool_type: PoolType
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import PrefectHTTPStatusError

    template = read_job_template(pool_type)
    name = f"templates-{pool_type}"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=name, type=pool_type, base_job_template=template), overwrite=True)
        assert client.read_work_pool(name).base_job_template == template
        flow_id = client.create_flow_from_name("exposure")

        with pytest.raises(PrefectHTTPStatusError, match="422"):
            client.create_deployment(flow_id, "bad", work_pool_name=name, job_variables={"env": "not a mapping"})
