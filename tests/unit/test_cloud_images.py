"""Images: who sees them, what they are called, how one is registered again."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from minicloud import context, errors, ids, states
from minicloud.cloud import image_bytes, images, instances, projects, shown, users
from minicloud.context import Context
from minicloud.db import models
from minicloud.db.session import Tx, transaction

Caller = Callable[[], Context]


@pytest.fixture
def operator(caller: Caller) -> Caller:
    """The operator, acting in the caller's project."""
    return lambda: dataclasses.replace(
        context.admin(), project_id=caller().project_id, project="proj"
    )


@transaction
def activate(tx: Tx, id: str, host: str = "h1") -> None:
    [row] = tx.scalars(sa.select(models.Image).where(models.Image.id == id))
    states.move(tx, states.IMAGE, row, "active", states.USER, ctx=context.admin(), host=host)


def kernel(ctx: Context, word: str = "lin") -> models.Image:
    made = images.register(ctx, name="linux", kind="kernel", word=word, public=True)
    activate(made.id)
    return made


def test_an_image_waits_for_its_bytes(operator: Caller, caller: Caller) -> None:
    kernel(operator())
    made = images.register(
        operator(), name="tiny", kind="machine", word="tiny", kernel="aki-lin", public=True
    )
    assert (made.state, made.host, made.word) == ("uploading", None, "tiny")
    [view] = images.find(caller(), ids=["ami-tiny"]).items
    assert (view.ec2_id, view.kernel_ec2_id, view.ramdisk_ec2_id) == ("ami-tiny", "aki-lin", None)
    with pytest.raises(errors.ImageNotFound):
        run(caller(), "ami-tiny")
    activate(made.id)
    assert run(caller(), "ami-tiny").kernel_ec2_id == "aki-lin"
    assert run(caller(), ids.ec2("ami", made.id)).row.image_id == made.id
    assert run(caller(), made.id).row.image_id == made.id


def run(ctx: Context, image: str) -> instances.InstanceView:
    [view] = instances.run(ctx, image=image, count_min=1, count_max=1, flavor="m1.nano")
    return view


def test_registering_again_goes_on_where_the_first_stopped(operator: Caller) -> None:
    def register(name: str = "tiny") -> models.Image:
        return images.register(operator(), name=name, kind="machine", word="tiny")

    first = register()
    assert register().id == first.id  # nobody had begun to upload

    @transaction
    def begin_upload(tx: Tx) -> None:
        image = models.Image
        tx.changed(sa.update(image).where(image.id == first.id).values(host="h1"))

    begin_upload()
    second = register()
    assert second.id != first.id
    assert second.file != first.file
    activate(second.id)
    assert register().id == second.id
    with pytest.raises(errors.NameTaken):
        register("other")
    left = {row.id: (row.state, row.word) for row in images.everything(context.admin())}
    assert left[first.id] == ("deleting", None)


def test_public_images_and_words_need_the_admin(caller: Caller) -> None:
    images.register(caller(), name="mine", kind="machine")
    for wish in ({"public": True}, {"word": "mine"}):
        with pytest.raises(errors.Forbidden):
            images.register(caller(), name="mine", kind="machine", **wish)  # type: ignore[arg-type]


WRONG_WISHES: list[dict[str, str]] = [
    {"kind": "floppy"},
    {"architecture": "vax"},
    {"word": "Tiny"},
    {"word": "../tiny"},
    {"word": "deadbeef"},
    {"word": "0123456789abcdef0"},
    {"word": "x" * 40},
    {"name": ""},
    {"name": "a\nb"},
    {"kernel": "aki-none"},
    {"kernel": "ami-tty"},
]


def test_a_wrong_image_is_refused(operator: Caller) -> None:
    before = len(images.everything(context.admin()))
    for wish in WRONG_WISHES:
        with pytest.raises((errors.InvalidValue, errors.ImageNotFound)):
            images.register(operator(), **{"name": "tiny", "kind": "machine", **wish})  # type: ignore[arg-type]
    assert len(images.everything(context.admin())) == before


def test_a_private_image_is_nobody_elses(operator: Caller, caller: Caller) -> None:
    made = images.register(caller(), name="mine", kind="machine")
    activate(made.id)
    shown_id = ids.ec2("ami", made.id)
    stranger = dataclasses.replace(caller(), project_id=ids.new())
    assert [view.ec2_id for view in images.find(stranger).items] == ["ami-tty"]
    with pytest.raises(errors.ImageNotFound):
        images.find(stranger, ids=[shown_id])
    with pytest.raises(errors.ImageNotFound):
        images.delete(stranger, shown_id)
    with pytest.raises(errors.Forbidden):
        images.delete(stranger, "ami-tty")
    assert images.find(caller(), owners=["self"], filters={"name": ["mine"]}).items
    assert not images.find(caller(), owners=["amazon"]).items
    assert [view.ec2_id for view in images.find(caller(), executable_by=["all"]).items] == [
        "ami-tty"
    ]


def test_a_deleted_image_gives_its_word_up(operator: Caller) -> None:
    made = kernel(operator())
    images.delete(operator(), "aki-lin")
    with pytest.raises(errors.ImageNotFound):
        images.named(context.admin(), "aki-lin")
    again = kernel(operator())
    assert again.id != made.id
    assert images.by_word(context.admin(), "kernel", "lin").id == again.id  # type: ignore[union-attr]


def test_an_image_in_use_is_kept(operator: Caller, caller: Caller) -> None:
    kernel(operator())
    made = images.register(operator(), name="tiny", kind="machine", kernel="aki-lin")
    with pytest.raises(errors.InUse, match=shown.image_id(made)):
        images.delete(operator(), "aki-lin")
    activate(made.id)
    view = run(caller(), made.id)
    with pytest.raises(errors.InUse, match="i-"):
        images.delete(caller(), made.id)
    instances.terminate(caller(), [view.row.id])
    images.delete(caller(), made.id)
    images.delete(operator(), "aki-lin")


def test_a_kernel_stays_while_an_image_is_registered_with_it(operator: Caller) -> None:
    kernel(operator())
    made = images.register(operator(), name="tiny", kind="machine", kernel="aki-lin")

    @transaction
    def becomes(tx: Tx, state: str) -> None:
        tx.execute(sa.update(models.Image).where(models.Image.id == made.id).values(state=state))

    becomes("registering")
    with pytest.raises(errors.InUse, match=shown.image_id(made)):
        images.delete(operator(), "aki-lin")
    becomes("error")
    images.delete(operator(), "aki-lin")


def test_a_ramdisk_needs_a_kernel(operator: Caller, caller: Caller) -> None:
    made = images.register(operator(), name="rd", kind="ramdisk", word="rd", public=True)
    activate(made.id)
    with pytest.raises(errors.InvalidCombination):
        instances.run(
            caller(),
            image="ami-tty",
            count_min=1,
            count_max=1,
            flavor="m1.nano",
            ramdisk="ari-rd",
        )


def test_who_deletes_an_image_does_not_learn_which_things_of_others_need_it(
    operator: Caller, caller: Caller
) -> None:
    users.create(context.admin(), "eve")
    project = projects.create(context.admin(), "eves", "eve")
    eve = dataclasses.replace(caller(), project_id=project.id, project="eves", user="eve")
    made = kernel(operator())
    theirs = images.register(eve, name="hers", kind="machine", kernel="aki-lin")
    with pytest.raises(errors.InUse, match="another project's image boots with it"):
        images.delete(caller(), made.id)
    with pytest.raises(errors.InUse, match=shown.image_id(theirs)):
        images.delete(operator(), made.id)
    whole = images.register(operator(), name="all", kind="machine", word="all", public=True)
    activate(whole.id)
    built = run(dataclasses.replace(eve, request_id=caller().request_id), "ami-all")
    with pytest.raises(errors.InUse, match="another project's instance is being built from it"):
        images.delete(caller(), whole.id)
    with pytest.raises(errors.InUse, match=shown.instance_id(built.row)):
        images.delete(operator(), whole.id)


def test_a_project_has_a_limit_of_images(
    operator: Caller, caller: Caller, options: Callable[..., None]
) -> None:
    kernel(operator())
    options("quota", images=3)  # with the one that there always is
    made = images.register(caller(), name="third", kind="machine")
    with pytest.raises(errors.ImageLimitExceeded, match="allows 3, 3 are used and 1 more"):
        images.register(caller(), name="fourth", kind="machine")
    images.delete(caller(), made.id)
    images.register(caller(), name="fourth", kind="machine")
    again = images.register(operator(), name="linux", kind="kernel", word="lin", public=True)
    assert again.word == "lin"  # it is there: nothing is made


def test_an_object_store_that_stands_still_is_given_up_and_its_address_not_told(
    caller: Caller,
    operator: Caller,
    options: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = kernel(operator())
    monkeypatch.setattr(image_bytes, "PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options("objectstore", url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        for ask in (
            lambda: image_bytes.send(made.id, [b"disk"], 4),
            lambda: image_bytes.download(caller(), made.id),
        ):
            with pytest.raises(errors.Unavailable, match="the object store does not") as refused:
                ask()
            assert "127.0.0.1" not in str(refused.value)
