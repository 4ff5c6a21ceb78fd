"""When and where flows run: survey files, deployments, work pools."""
