"""Users: who may sign requests.  Only admins decide here."""

from __future__ import annotations

import dataclasses
import secrets as random
import string

import sqlalchemy as sa

from minicloud import errors, ids
from minicloud.auth import passwords, policy, secrets
from minicloud.cloud import names
from minicloud.context import Context
from minicloud.db import models, rows
from minicloud.db.session import Tx, done, once, reading, transaction

ACCESS_KEY_LENGTH = 20  # AWS's own lengths: tools check them
SECRET_LENGTH = 40


@dataclasses.dataclass(frozen=True)
class Keys:
    access_key: str
    secret: str = dataclasses.field(repr=False)


def create(ctx: Context, name: str, is_admin: bool = False) -> models.User:
    """A user with fresh keys and password is there; NameTaken when there was one of that name."""
    policy.require(ctx, "users")
    names.check(name, "name", names.ACCOUNT)
    alphabet = string.ascii_uppercase + string.digits
    password = passwords.generate()
    row = {
        "id": ids.new(),
        "name": name,
        "is_admin": is_admin,
        "access_key": "".join(random.choice(alphabet) for _ in range(ACCESS_KEY_LENGTH)),
        "secret": secrets.encrypt(_secret()),
        "password": passwords.stored(password),
        "kept_password": secrets.encrypt(password),
    }
    return _create(ctx, row)


def _secret() -> str:
    alphabet = string.ascii_letters + string.digits
    return "".join(random.choice(alphabet) for _ in range(SECRET_LENGTH))


@transaction
def _create(tx: Tx, ctx: Context, row: dict[str, object]) -> models.User:
    name = str(row["name"])
    known = once(tx, ctx, "user create", None, [name, row["is_admin"]])
    if known is None:
        if _named(tx, name, lock=False) is not None:
            raise errors.NameTaken(kind="user", name=name)
        rows.insert(tx, models.User, [row])
        done(tx, ctx, [str(row["id"])])
    return held(tx, name)


@reading
def find(tx: Tx, ctx: Context) -> list[models.User]:
    """All users, by name."""
    policy.require(ctx, "users")
    return list(tx.scalars(sa.select(models.User).order_by(models.User.name)))


@reading
def get(tx: Tx, ctx: Context, name: str) -> models.User:
    """The user of that name; UserNotFound."""
    policy.require(ctx, "users")
    return existing(tx, name)


@reading
def seen(tx: Tx, ctx: Context, id: str) -> models.User:
    """The user of that id: oneself, or for admins anybody; UserNotFound."""
    if id != ctx.user_id:
        policy.require(ctx, "users")
    found = tx.get(models.User, id) if id.isascii() else None
    if found is None:
        raise errors.UserNotFound(id=id[:80])
    return found


def keys(ctx: Context, name: str) -> Keys:
    """The user's access key and secret, in clear; UserNotFound."""
    user = get(ctx, name)
    return Keys(user.access_key, secrets.decrypt(user.secret))


def password(ctx: Context, name: str) -> str | None:
    """The password that was made for the user, in clear; None once the user has set another.

    A user of before there were passwords gets one now.  UserNotFound.
    """
    user = get(ctx, name)
    if user.password is None:
        made = passwords.generate()
        user = _give(ctx, name, passwords.stored(made), secrets.encrypt(made))
    return None if user.kept_password is None else secrets.decrypt(user.kept_password)


@transaction
def _give(tx: Tx, ctx: Context, name: str, stored: str, kept: str) -> models.User:
    user = held(tx, name)
    if user.password is None:
        user.password, user.kept_password = stored, kept
        tx.flush()
    return user


def change_password(ctx: Context, id: str, old: str, new: str) -> None:
    """The asker's password is `new`, nobody else can read it, and all tokens of before are good
    for nothing.

    Forbidden for another user's; WrongPassword; BadRequest for one that is too short or long.
    """
    if id != ctx.user_id:
        raise errors.Forbidden(reason="only users themselves change their passwords")
    passwords.check_new(new)
    if not passwords.fits(old, _password(id)):
        raise errors.WrongPassword
    _change(ctx, id, passwords.stored(new))


@reading
def _password(tx: Tx, id: str) -> str | None:
    statement = sa.select(models.User.password).where(models.User.id == id)
    return tx.scalars(statement).one_or_none()


@transaction
def _change(tx: Tx, ctx: Context, id: str, stored: str) -> None:
    if once(tx, ctx, "user password", None, [id]) is not None:
        return
    user = models.User
    tx.changed(
        sa.update(user)
        .where(user.id == id)
        .values(password=stored, kept_password=None, token_epoch=user.token_epoch + 1)
    )


@transaction
def delete(tx: Tx, ctx: Context, name: str) -> None:
    """The user and its memberships are gone, its keys sign nothing any more.

    UserNotFound; InUse, with their names, while the user manages projects.  What the user made
    belongs to its project and stays.
    """
    policy.require(ctx, "users")
    if once(tx, ctx, "user delete", None, [name]) is not None:
        return
    user = held(tx, name)
    managed = sa.select(models.Project.name).where(models.Project.manager_id == user.id)
    projects = list(tx.scalars(managed.order_by(models.Project.name)))
    if projects:
        raise errors.InUse(kind="user", name=name, reason=f"it manages {', '.join(projects)}")
    tx.changed(sa.delete(models.Membership).where(models.Membership.user_id == user.id))
    tx.changed(sa.delete(models.User).where(models.User.id == user.id))


def held(tx: Tx, name: str) -> models.User:
    """The user of that name, locked until the transaction ends; UserNotFound."""
    found = _named(tx, name, lock=True)
    if found is None:
        raise errors.UserNotFound(id=name)
    return found


def existing(tx: Tx, name: str) -> models.User:
    """The user of that name; UserNotFound."""
    found = _named(tx, name, lock=False)
    if found is None:
        raise errors.UserNotFound(id=name)
    return found


def _named(tx: Tx, name: str, *, lock: bool) -> models.User | None:
    statement = sa.select(models.User).where(models.User.name == name)
    return tx.scalars(statement.with_for_update() if lock else statement).one_or_none()
