"""Projects: what owns resources, who belongs to them and how much they may have."""

from __future__ import annotations

import pathlib

from minicloud import context
from minicloud.cli import novarc, table
from minicloud.cli.commands import COMMANDS, WrongUsage, command


@command("project create")
def project_create(name: str, manager: str) -> None:
    """Create a project and show its id; the user MANAGER is its first member."""
    from minicloud.cloud import projects

    print(projects.create(context.admin(), name, manager).id)


@command("project list")
def project_list(json: bool = False) -> None:
    """List all projects with their members."""
    from minicloud.cloud import projects

    rows = []
    for project in projects.find(context.admin()):
        members = projects.members(context.admin(), project.name)
        manager = next((one.name for one in members if one.id == project.manager_id), None)
        names = [one.name for one in members]
        rows.append((project.id, project.name, manager, names, project.created_at))
    table.show(("id", "name", "manager", "members", "created_at"), rows, json)


@command("project delete")
def project_delete(name: str) -> None:
    """Delete a project with its security groups, key pairs and quotas.

    Refused while it has instances, volumes, images or networks.
    """
    from minicloud.cloud import projects

    projects.delete(context.admin(), name)


@command("project add")
def project_add(project: str, user: str) -> None:
    """Make the user a member of the project; repeating changes nothing."""
    from minicloud.cloud import projects

    projects.add(context.admin(), project, user)


@command("project remove")
def project_remove(project: str, user: str) -> None:
    """End the user's membership in the project; repeating changes nothing."""
    from minicloud.cloud import projects

    projects.remove(context.admin(), project, user)


@command("project environment")
def project_environment(project: str, user: str, file: str) -> None:
    """Write FILE (mode 0600), which a shell sources to act as the user in the project.

    It holds the user's secret key, and the password until the user sets another.  clouds.yaml,
    beside it, says the same to OpenStack's clients.  Older files are replaced.
    """
    from oslo_config import cfg

    from minicloud import config, errors
    from minicloud.cloud import projects, users

    directory = pathlib.Path(file).resolve().parent
    if not directory.is_dir():
        raise errors.BadRequest(reason=f"There is no directory {directory}")
    config.list_opts()  # the front doors' addresses are options of modules not imported here
    credentials = projects.credentials(context.admin(), project, user)
    password = users.password(context.admin(), user)
    text = novarc.render(
        user=credentials.user,
        project=credentials.project,
        project_id=credentials.project_id,
        access_key=credentials.access_key,
        secret=credentials.secret,
        ec2_url=cfg.CONF.api.ec2_url,
        s3_url=cfg.CONF.objectstore.s3_url,
        region=cfg.CONF.region,
        path=pathlib.Path(file).resolve(),
        auth_url=cfg.CONF.openstack.identity_url,
        password=password,
    )
    clouds = novarc.clouds_yaml(
        user=credentials.user,
        project=credentials.project,
        region=cfg.CONF.region,
        auth_url=cfg.CONF.openstack.identity_url,
        password=password,
    )
    novarc.write(novarc.beside(pathlib.Path(file)), clouds)
    novarc.write(pathlib.Path(file), text)


@command("project quota")
def project_quota(project: str, key: str = "", value: str = "", json: bool = False) -> None:
    """Show the project's limits and use, or set the limit of KEY to VALUE.

    KEY is instances, cores, ram (in MiB), volumes or gigabytes; the VALUE -1 is no limit.
    """
    from minicloud.cloud import quotas

    if key:
        usage = COMMANDS["project quota"].usage
        if not value:
            raise WrongUsage(f"VALUE is missing (usage: {usage})")
        try:
            wanted = int(value)
        except ValueError:
            raise WrongUsage(f"VALUE must be a number (usage: {usage})") from None
        quotas.change(context.admin(), project, key, wanted)
    limits = quotas.find(context.admin(), project)
    rows = [(one.resource, one.limit, one.used) for one in limits if key in ("", one.resource)]
    table.show(("key", "limit", "used"), rows, json)
