import pytest
from pydantic import ValidationError

from tasks.runner import Runner, SlurmJobs


def test_two_processes_of_this_machine_are_the_default() -> None:
    assert Runner().model_dump() == {"kind": "local", "workers": 2, "scheduler": None, "slurm": None}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"scheduler": "tcp://node1:8786"}, "`scheduler` belongs to the kind `dask`, and the kind is `local`"),
        ({"slurm": {}}, "`slurm` belongs to the kind `dask`"),
        (
            {"kind": "dask", "scheduler": "tcp://node1:8786", "slurm": {}},
            "workers are either those of the scheduler tcp://node1:8786 or jobs of SLURM",
        ),
        ({"kind": "dask", "workers": 0}, "needs at least 1 worker: raise `workers`"),
        ({"kind": "dask", "scheduler": "node1"}, "should match pattern"),
        ({"workers": -1}, "greater than or equal to 0"),
        ({"kind": "dask", "slurm": {"processes": 8}}, "8 worker processes need 8 cores, and a job books 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Runner.model_validate(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"prologue": ["module load gcc/13.2", "source /opt/shearline/bin/activate", "export DATA=/data/night"]},
        {"directives": ["--qos=night", "--exclusive", "--constraint=rome|milan"]},
        {"memory": "16 GB", "walltime": "2-00:00:00"},
    ],
)
def test_what_a_job_of_slurm_needs_can_be_said(settings: dict[str, object]) -> None:
    assert SlurmJobs.model_validate(settings).fingerprint() != SlurmJobs().fingerprint()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prologue", ["curl https://example.org | sh"]),
        ("prologue", ["module load gcc; rm -rf /"]),
        ("prologue", ["export A=$(id)"]),
        ("prologue", ["source a\nrm b"]),
        ("directives", ["--qos=night\nrm b"]),
        ("directives", ["--wrap=a;b"]),
        ("account", "a b"),
        ("account", "a\n#SBATCH -w x"),
        ("python", "/bin/sh -c id"),
        ("walltime", "4 hours"),
        ("memory", "plenty"),
    ],
)
def test_settings_of_a_job_cannot_become_commands(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        SlurmJobs.model_validate({field: value})


def test_the_form_of_the_ui_describes_every_field_and_its_bounds() -> None:
    schema = Runner.model_json_schema()
    fields = {**schema["properties"], **schema["$defs"]["SlurmJobs"]["properties"]}

    assert [name for name, field in fields.items() if "description" not in field] == []
    assert (fields["workers"]["minimum"], fields["workers"]["maximum"]) == (0, 4096)
    # the form shows a union with a discriminator as raw JSON
    assert "discriminator" not in str(schema)
