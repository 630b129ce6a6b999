"""The commands of `tools/minicloud.sh`, each of which may be repeated and interrupted."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher import (
    bring_up,
    clone,
    closing,
    emptying,
    guest_image,
    lab,
    machine,
    packages,
    rows,
    screen,
    services,
    state,
    tagged,
    users,
    variables,
    venv,
)
from launcher.report import Failure, Refused, WrongUsage, say
from launcher.state import Cloud, State

HELP = """\
usage: tools/minicloud.sh COMMAND

  install                  packages, venv and user; nothing is started
  branch [SOURCE] [DIR]    a git clone of this checkout, or of SOURCE, in ./minicloud, or DIR
  run [--fresh]            a running cloud with one instance that was entered by ssh; on a terminal
                           also a tmux session with the logs (--fresh: scrub --all first)
  run_detached             the same without a terminal; on an existing cloud no instance is started
  start|stop|restart|status [DAEMON]
                           one daemon of the cloud, or all
  manage …                 minicloud-manage of this cloud
  terminate                all instances and volumes of all projects are gone
  reset                    that, and no user, project, key pair, group, network, bucket or quota
                           but the first ones, made anew; images stay
  clean                    daemons, broker, database and libvirtd stop; guests and networks go on
  scrub [--list] [--all]   everything of the cloud is gone from the host, the state directory stays
                           (--all: goes too; --list: only says what there is)
  lab N                    a cloud of N pretend hosts h1 … on this machine, for lessons and tests
  lab status               what is up, and whose wire is cut
  lab start|kill|stop|continue HOST [DAEMON]
                           daemons of a pretend host (or of `head`) start, die, stand still, go on
  lab cut|heal HOST        the host's wire to the head is cut, or whole
  lab fence HOST           the host loses its power, and the cloud is told
  lab manage …             minicloud-manage of the lab
  lab down                 nothing of the lab is left
  storm [--seed N] [--minutes M]
                           tenants ask the lab for everything while everything in it fails; what is
                           wrong afterwards is shown (a minute; a seed plays the same again)
  check                    format, lint, types, layers, spelling, unit and house tests
  test [AREA]              all tests, or those in the folder AREA of tests/
  bench [WORK …] [--json FILE]
                           how fast a simulated cloud is here, beside what this machine can do

variables: MINICLOUD_STATE (/var/lib/minicloud, for a lab /var/lib/minicloud-lab) PORT_OFFSET
  HOST_IP CONNECTION_TYPE LIBVIRT_TYPE USE_MYSQL MYSQL_PASS FIXED_RANGE INTERFACE INSTANCES_PATH
  LOCK_PATH SCREEN_NAME TEST
"""


IN_PROCESS = ("house", "unit", "functional")  # areas whose tests need no machine of their own


def install(arguments: Sequence[str]) -> int:
    """Everything a cloud needs is on the machine; nothing is started."""
    _none(arguments)
    values = variables.parsed(variables.given(os.environ))
    _install(values)
    say("everything is installed")
    return 0


def branch(arguments: Sequence[str]) -> int:
    """DIR is a git clone of SOURCE, with what SOURCE has now."""
    if len(arguments) > 2:
        raise WrongUsage("branch takes a SOURCE and a DIR, no more")
    source, target = [*arguments, *["", ""][len(arguments) :]]
    packages.install({"git"})
    clone.clone(source or str(venv.CHECKOUT), Path(target or "minicloud").absolute())
    return 0


def run(arguments: Sequence[str]) -> int:
    """The cloud runs and its first instance too, another when that was terminated; on a terminal
    this becomes a tmux session with the logs, and leaving that stops nothing."""
    if set(arguments) - {"--fresh"}:
        raise WrongUsage(f"run knows --fresh, not {' '.join(arguments)}")
    where, asked = _asked()
    seen = screen.is_terminal()
    if "--fresh" in arguments:
        scrub(["--all"])
    if seen:
        screen.install()
        screen.require_free(_values(where, asked), where)
    values = _run(where, asked, renew=True)
    if seen:
        screen.show(
            values, where, [one.name for one in bring_up.services_of(_existing(where, {}))]
        )
    return 0


def run_detached(arguments: Sequence[str]) -> int:
    """`run` without a terminal, that starts no instance on a cloud that had its first one."""
    _none(arguments)
    where, asked = _asked()
    _run(where, asked, renew=False)
    return 0


def _values(where: State, asked: dict[str, str]) -> variables.Variables:
    """What the cloud was made with, or is to be made with."""
    kept = variables.read(where.variables)
    return variables.parsed(variables.merged(kept, asked) if kept else asked)


def _run(where: State, asked: dict[str, str], *, renew: bool) -> variables.Variables:
    made = state.cloud(where, asked)
    if made and made.variables.lab:
        raise Refused(f"the cloud in {where.path} is a lab", "tools/minicloud.sh lab N runs it")
    values = made.variables if made else variables.parsed(_kept_or_resolved(where, asked))
    machine.check(where, values)
    bring_up.check_ports(where, made, values)
    if variables.test_wanted(os.environ):
        _require(check_tests(["unit"]), "the unit tests fail", "see above, or run without TEST=1")
    _install(values)
    with state.locked(where):
        cloud = state.cloud(where, asked) or _make(where, asked)
        bring_up.everything(cloud)
        bring_up.first_instance(cloud, renew=renew)
    closing.finished(where, cloud.variables)
    return cloud.variables


def start(arguments: Sequence[str]) -> int:
    """What was asked for is up."""
    where, cloud, name = _one(arguments)
    chosen = services.chosen(bring_up.services_of(cloud), name)
    _refresh(cloud.variables)
    with state.locked(where):
        bring_up.start(cloud, chosen)
    return 0


def stop(arguments: Sequence[str]) -> int:
    """What was asked for is down, its pid files are gone."""
    where, cloud, name = _one(arguments)
    chosen = services.chosen(bring_up.services_of(cloud), name)
    with state.locked(where):
        services.stop(cloud, chosen)
    return 0


def restart(arguments: Sequence[str]) -> int:
    """Stopped and started again; guests do not notice."""
    where, cloud, name = _one(arguments)
    chosen = services.chosen(bring_up.services_of(cloud), name)
    _refresh(cloud.variables)
    if name is None:
        chosen = bring_up.without_recorder(cloud, chosen)
    with state.locked(where):
        services.stop(cloud, chosen)
        bring_up.start(cloud, chosen)
    return 0


def status(arguments: Sequence[str]) -> int:
    """A line each; 0 when all that was asked for is up, else 1."""
    _, cloud, name = _one(arguments)
    up = services.status(cloud, services.chosen(bring_up.services_of(cloud), name))
    return 0 if up else 1


def manage(arguments: Sequence[str]) -> int:
    """minicloud-manage with the cloud's configuration; its output and exit status are ours."""
    where, asked = _asked()
    cloud = _existing(where, asked)
    _refresh(cloud.variables)
    program = str(venv.program("minicloud-manage"))
    argv = [str(venv.python()), program, "--config-file", str(where.conf), *arguments]
    os.execv(argv[0], argv)


def terminate(arguments: Sequence[str]) -> int:
    """No instance and no volume of any project is left; what is needed for that is started."""
    _none(arguments)
    where, asked = _asked()
    cloud = _existing(where, asked)
    _refresh(cloud.variables)
    with state.locked(where):
        bring_up.everything(cloud)
        with rows.manage(cloud) as session:
            emptying.terminate(session)
    return 0


def reset(arguments: Sequence[str]) -> int:
    """The cloud is as new but for its identity and its images: `terminate`, then no user, project,
    key pair, group, network, bucket or quota is left but those that `run` makes, which are new."""
    _none(arguments)
    where, asked = _asked()
    cloud = _existing(where, asked)
    _refresh(cloud.variables)
    with state.locked(where):
        bring_up.everything(cloud)
        with rows.manage(cloud) as session:
            emptying.reset(cloud, session)
    say(f"made the user and project {rows.USER} anew; . {where.novarc}")
    return 0


def clean(arguments: Sequence[str]) -> int:
    """Daemons, broker, database and libvirtd are down; guests and their networks go on."""
    _none(arguments)
    where, asked = _asked()
    cloud = state.cloud(where, asked)
    if cloud is None:
        return 0
    with state.locked(where):
        services.stop(cloud, bring_up.without_recorder(cloud, bring_up.services_of(cloud)))
    screen.close(cloud.variables, where)
    return 0


def scrub(arguments: Sequence[str]) -> int:
    """Nothing with the cloud's tag is left on the host."""
    if set(arguments) - {"--list", "--all"}:
        raise WrongUsage(f"scrub knows --list and --all, not {' '.join(arguments)}")
    where, asked = _asked()
    cloud = state.cloud(where, asked)
    if "--list" in arguments:
        for thing in tagged.everything(cloud) if cloud else []:
            say(f"{thing.kind} {thing.name}")
        return 0
    if not where.path.exists():
        return 0
    with state.locked(where):
        if cloud:
            services.stop(cloud, bring_up.services_of(cloud))
            tagged.remove(cloud)
        if "--all" in arguments:
            _remove_state(where)
    if cloud:
        screen.close(cloud.variables, where)
    return 0


def lab_command(arguments: Sequence[str]) -> int:
    """A rack of pretend hosts: made, looked at, broken, mended and taken away."""
    if not arguments:
        raise WrongUsage("lab takes a number of hosts, or a verb: see tools/minicloud.sh help")
    verb, *words = arguments
    os.environ.setdefault("MINICLOUD_STATE", variables.LAB_STATE)
    if verb == "manage":
        return manage(words)
    if verb == "down":
        return _end_lab(words)
    if verb not in lab.VERBS:
        return _run_lab(arguments)
    where, asked = _asked()
    cloud = _existing_lab(where, asked)
    if verb in ("start", "fence"):
        _refresh(cloud.variables)
    if verb == "status":
        return lab.VERBS[verb](cloud, words)
    with state.locked(where):
        return lab.VERBS[verb](cloud, words)


def storm(arguments: Sequence[str]) -> int:
    """Tenants ask for things while parts of the lab fail; 0 when nothing is wrong afterwards."""
    asked_for = {"--seed": str(secrets.randbelow(10**6)), "--minutes": "1"}
    words = list(arguments)
    while words:
        if words[0] not in asked_for or len(words) == 1:
            raise WrongUsage("storm takes --seed N and --minutes M")
        name, value, *words = words
        asked_for[name] = value
    seed, minutes = asked_for.values()
    if not (seed.isascii() and seed.isdecimal()):
        raise WrongUsage(f"--seed is a number, not {seed}")
    if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", minutes) is None:
        raise WrongUsage(f"--minutes is a number such as 0.5 or 10, not {minutes}")
    os.environ.setdefault("MINICLOUD_STATE", variables.LAB_STATE)
    where, asked = _asked()
    cloud = _existing_lab(where, asked)
    _refresh(cloud.variables)
    with state.locked(where):
        return subprocess.run(
            [str(venv.python()), "-B", "-m", "launcher.storm", str(where.path), seed, minutes],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": f"{venv.CHECKOUT}/tools:{venv.CHECKOUT}"},
            check=False,
        ).returncode


def _run_lab(arguments: Sequence[str]) -> int:
    count = lab.wanted_hosts(arguments[0])
    _none(arguments[1:])
    where, asked = _asked()
    asked = lab.wanted_variables(asked)
    machine.check(where, variables.parsed(asked))
    known = state.cloud(where, asked)
    if known:
        lab.require(known)
    _install(variables.parsed(asked))
    with state.locked(where):
        cloud = state.cloud(where, asked) or _make(where, asked)
        lab.bring_up_all(cloud, count)
    lab.finished(where, cloud.variables)
    return 0


def _end_lab(words: Sequence[str]) -> int:
    """Nothing of the lab is left; where there is none, nothing happens."""
    _none(words)
    where, asked = _asked()
    cloud = state.cloud(where, asked)
    if cloud:
        lab.require(cloud)
        with state.locked(where):
            lab.end(cloud)
    return scrub(["--all"])


def _existing_lab(where: State, asked: dict[str, str]) -> Cloud:
    cloud = state.cloud(where, asked)
    if cloud is None:
        raise Refused(f"there is no lab in {where.path}", "make one: tools/minicloud.sh lab 3")
    lab.require(cloud)
    return cloud


def check(arguments: Sequence[str]) -> int:
    """Format, lint, types, layers, spelling, unit and house tests, in that order."""
    _none(arguments)
    _install_for_tests(packages.BASE)
    folders = ["minicloud", "tools", "tests", "bin"]
    for tool in (
        ["ruff", "format", "--check", "--no-cache", *folders],
        ["ruff", "check", "--no-cache", *folders],
        ["mypy", "--cache-dir", str(venv.path() / "mypy")],
        ["lint-imports", "--no-cache"],
        ["codespell"],
    ):
        say(f"--- {tool[0]} {' '.join(tool[1:2])}".rstrip())
        if _in_checkout([str(venv.program(tool[0])), *tool[1:]]) != 0:
            return 1
    return check_tests(["unit", "house"])


def test(arguments: Sequence[str]) -> int:
    """All of tests/, or of one folder; exit status of pytest."""
    if len(arguments) > 1:
        raise WrongUsage("test takes one AREA, a folder of tests/")
    area = arguments[0] if arguments else ""
    known = sorted({file.parent.name for file in (venv.CHECKOUT / "tests").glob("*/test_*.py")})
    if area and area not in known:
        raise WrongUsage(f"there is no tests/{area}; there are {', '.join(known)}")
    real = area not in ("unit", "house")
    _install_for_tests(packages.TESTS if real else packages.BASE)
    if real and os.geteuid() == 0:
        guest_image.build()  # here, where there is a way out: host tests have namespaces without
    if area:
        return _pytest([area])
    together = _pytest(IN_PROCESS, "-n", "auto")
    return _pytest([name for name in known if name not in IN_PROCESS]) or together


def bench(arguments: Sequence[str]) -> int:
    """Figures of a cloud that is made for it and taken away; docs/performance.md explains them."""
    _install_for_tests(packages.TESTS)
    return _in_checkout(
        [str(venv.python()), "-m", "tests.bench", *arguments],
        PYTHONPATH=f"{venv.CHECKOUT}:{venv.CHECKOUT}/tools",
    )


def check_tests(areas: Sequence[str]) -> int:
    """The tests of these areas, with what they need installed; pytest's exit status."""
    _install_for_tests(packages.BASE)
    return _pytest(areas, "-n", "auto")


def _pytest(areas: Sequence[str], *options: str) -> int:
    folders = [f"tests/{area}" for area in areas]
    say(f"--- pytest {' '.join(folders)}")
    pytest = [str(venv.python()), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return _in_checkout([*pytest, *options, *folders])


def _in_checkout(argv: Sequence[str], **more: str) -> int:
    """Run a tool there; what it remembers is kept beside the venv."""
    environment = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(venv.path() / "hypothesis"),
        **more,
    }
    return subprocess.run(argv, cwd=venv.CHECKOUT, env=environment, check=False).returncode


def _refresh(values: variables.Variables) -> None:
    """The daemons are those of this checkout; nothing is fetched for what is there already."""
    venv.install(development=False, libvirt=values.real, quiet=True)


def _install(values: variables.Variables) -> None:
    names = set(packages.BASE)
    if values.real:
        names |= set(packages.REAL)
    if values.use_mysql:
        names |= set(packages.DATABASE)
    packages.install(names)
    users.make()
    venv.install(development=False, libvirt=values.real)
    if values.real:
        guest_image.build()


def _install_for_tests(names: Sequence[str]) -> None:
    if os.geteuid() == 0:
        packages.install(set(packages.BASE) | set(names))
        users.make()
    venv.install(development=True, libvirt=packages.REAL[0] not in packages.missing(names))


def _make(where: State, asked: dict[str, str]) -> Cloud:
    """A new cloud: its variables first, minicloud.conf last."""
    kept = _kept_or_resolved(where, asked)
    values = variables.parsed(kept)
    variables.write(where.variables, kept)
    virt_type = machine.virt_type(values)
    state.lay_out(where, values)
    cloud = bring_up.configured(where, values, virt_type)
    say(f"made the cloud {cloud.tag} in {where.path}")
    return cloud


def _kept_or_resolved(where: State, asked: dict[str, str]) -> dict[str, str]:
    """What an interrupted `run` decided stays decided."""
    kept = variables.read(where.variables)
    return variables.merged(kept, asked) if kept else machine.resolved(where, asked)


def _asked() -> tuple[State, dict[str, str]]:
    return State(variables.state_path(os.environ)), variables.given(os.environ)


def _existing(where: State, asked: dict[str, str]) -> Cloud:
    cloud = state.cloud(where, asked)
    if cloud is None:
        raise Refused(f"there is no cloud in {where.path}", "make one: tools/minicloud.sh run")
    return cloud


def _one(arguments: Sequence[str]) -> tuple[State, Cloud, str | None]:
    if len(arguments) > 1:
        raise WrongUsage("one DAEMON, or none for all")
    where, asked = _asked()
    return where, _existing(where, asked), (arguments[0] if arguments else None)


def _none(arguments: Sequence[str]) -> None:
    if arguments:
        raise WrongUsage(f"this command takes no argument: {' '.join(arguments)}")


def _require(status: int, cause: str, mend: str) -> None:
    if status != 0:
        raise Failure(cause, mend)


def _remove_state(where: State) -> None:
    """The state directory is gone; one that is no cloud's is left alone."""
    kept = variables.read(where.variables)
    if kept is None and os.listdir(where.path):
        raise Refused(f"{where.path} is no cloud's state directory", "look what is in it")
    for name in ("INSTANCES_PATH", "LOCK_PATH"):
        path = Path((kept or {}).get(name, ""))
        if (path / state.MADE_HERE).exists():
            shutil.rmtree(path)
    shutil.rmtree(where.path)
    say(f"removed {where.path}")


COMMANDS = {
    "branch": branch,
    "install": install,
    "run": run,
    "run_detached": run_detached,
    "start": start,
    "stop": stop,
    "restart": restart,
    "status": status,
    "manage": manage,
    "terminate": terminate,
    "reset": reset,
    "clean": clean,
    "scrub": scrub,
    "lab": lab_command,
    "storm": storm,
    "bench": bench,
    "check": check,
    "test": test,
}


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Do one command; its exit status: 0 done, 1 refused or failed, 2 wrong usage."""
    if arguments and arguments[0] in ("help", "-h", "--help"):
        print(HELP, end="")
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        raise WrongUsage(HELP if not arguments else f"there is no command {arguments[0]}\n{HELP}")
    return COMMANDS[arguments[0]](arguments[1:])
