"""The file that a shell sources to act as a user in a project."""

from __future__ import annotations

import json
import os
import pathlib
import secrets
import shlex

from minicloud import errors

CLOUD = "minicloud"  # its name in clouds.yaml
FLOATING = "none"  # openstacksdk's create_server wants a floating address where there may be any
CLOUDS_HEAD = "# minicloud: "  # a clouds.yaml without it is somebody else's

# where the file is: bash and zsh tell a sourced file its name; dash (and sh) do not, but still
# have it open, as the highest of the descriptors from 10 on
_PLACE = r"""if [ -n "${BASH_VERSION:-}" ]; then
    _novarc=$BASH_SOURCE
elif [ -n "${ZSH_VERSION:-}" ]; then
    eval '_novarc=${(%):-%x}'
else
    for _novarc_fd in /proc/$$/fd/1?; do
        if [ -f "$_novarc_fd" ] && grep -qs "^# minicloud: acts as" "$_novarc_fd"; then
            _novarc=$(readlink "$_novarc_fd")
        fi
    done
    unset _novarc_fd
fi
NOVA_KEY_DIR=$(CDPATH='' cd -- "$(dirname -- "$_novarc")" >/dev/null && pwd)
unset _novarc
export NOVA_KEY_DIR
export OS_CLIENT_CONFIG_FILE="$NOVA_KEY_DIR/clouds.yaml"
"""


def render(
    *,
    user: str,
    project: str,
    project_id: str,
    access_key: str,
    secret: str,
    ec2_url: str,
    s3_url: str,
    region: str,
    path: pathlib.Path,
    auth_url: str,
    password: str | None,
) -> str:
    """The file's text for bash, dash and zsh; `path` is where it will be.

    Without a `password` the user is asked for it by the clients themselves.
    """
    key = f"{access_key}:{project}"  # so that it means this project, whatever else the user is in
    variables = {
        "EC2_URL": ec2_url,
        "S3_URL": s3_url,
        "EC2_ACCESS_KEY": key,
        "EC2_SECRET_KEY": secret,
        "EC2_USER_ID": project_id,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": region,
        "AWS_ENDPOINT_URL_EC2": ec2_url,
        "AWS_ENDPOINT_URL_S3": s3_url,
        "OS_AUTH_URL": auth_url,
        "OS_USERNAME": user,
        "OS_PASSWORD": password,
        "OS_PROJECT_NAME": project,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": region,
        "OS_IDENTITY_API_VERSION": "3",
        "OS_FLOATING_IP_SOURCE": FLOATING,
    }
    lines = [
        f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"
        for name, value in variables.items()
    ]
    return "\n".join(
        [
            f"# minicloud: acts as {user} in the project {project}.  Holds a secret.",
            f"# Use it with:  . {shlex.quote(str(path))}",
            f"_novarc={shlex.quote(str(path))}",
            _PLACE.rstrip(),
            *lines,
            "# these of another cloud would win over the keys above",
            "unset AWS_SESSION_TOKEN AWS_PROFILE",
            "unset OS_CLOUD OS_TOKEN OS_AUTH_TYPE OS_PROJECT_ID OS_USER_ID OS_DOMAIN_NAME",
            "unset OS_SYSTEM_SCOPE OS_TENANT_NAME OS_TENANT_ID OS_COMPUTE_API_VERSION",
            "",
        ]
    )


def clouds_yaml(
    *, user: str, project: str, region: str, auth_url: str, password: str | None
) -> str:
    """What openstacksdk and `openstack --os-cloud minicloud` read.

    Each text is in JSON's form, which is also YAML's.
    """
    auth = {
        "auth_url": auth_url,
        "username": user,
        "password": password,
        "project_name": project,
        "user_domain_name": "Default",
        "project_domain_name": "Default",
    }
    lines = [f"      {name}: {json.dumps(value)}" for name, value in auth.items() if value]
    return "\n".join(
        [
            f"{CLOUDS_HEAD}acts as {user} in the project {project}.  Holds a secret.",
            "clouds:",
            f"  {CLOUD}:",
            "    auth:",
            *lines,
            f"    region_name: {json.dumps(region)}",
            '    identity_api_version: "3"',
            f'    floating_ip_source: "{FLOATING}"',
            "",
        ]
    )


def beside(path: pathlib.Path) -> pathlib.Path:
    """Where the clouds.yaml of a novarc at `path` is; Conflict when another one is there."""
    found = path.with_name("clouds.yaml")
    if found.exists() and not found.read_text(errors="replace").startswith(CLOUDS_HEAD):
        raise errors.Conflict(
            reason=f"{found} is not one that minicloud wrote: give FILE another directory"
        )
    return found


def write(path: pathlib.Path, text: str) -> None:
    """The file holds `text`, all of it or not at all, and only its owner may read it."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
