"""Key pairs: the private half is shown once, by the action that makes it, and kept nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minicloud import errors, ids
from minicloud.api.ec2 import tags
from minicloud.api.ec2.actions import action
from minicloud.cloud import keypairs
from minicloud.cloud import tags as tags_
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import KeyPair


@action
def create_key_pair(
    ctx: Context,
    *,
    key_name: str,
    key_type: str = "rsa",
    key_format: str = "pem",
    tag_specifications: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    if key_format != "pem":
        raise errors.NotBuilt(what=f"The KeyFormat {key_format}")
    wanted = tags.specified(tag_specifications, "key-pair")
    pair, material = keypairs.create(ctx, key_name, key_type, tags=wanted)
    return {**_brief(pair, wanted), "KeyMaterial": material}


@action
def import_key_pair(
    ctx: Context,
    *,
    key_name: str,
    public_key_material: bytes,
    tag_specifications: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    try:
        public_key = public_key_material.decode("ascii")
    except UnicodeDecodeError as error:
        raise errors.InvalidKey(reason="it is not ASCII text") from error
    wanted = tags.specified(tag_specifications, "key-pair")
    pair = keypairs.import_(ctx, key_name, public_key, tags=wanted)
    return _brief(pair, wanted)


@action(filters=keypairs.FILTERS)
def describe_key_pairs(
    ctx: Context,
    *,
    key_names: list[str] | None = None,
    key_pair_ids: list[str] | None = None,
    include_public_key: bool = False,
    filters: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    page = keypairs.find(
        ctx,
        names=key_names or [],
        ids=key_pair_ids or [],
        filters=filters or {},
        limit=None,
        after=None,
    )
    tagged = tags_.of(ctx, [pair.id for pair in page.items])
    return {
        "KeyPairs": [
            _view(pair, tagged.get(pair.id) or {}, include_public_key) for pair in page.items
        ]
    }


@action
def delete_key_pair(
    ctx: Context,
    *,
    key_name: str | None = None,
    key_pair_id: str | None = None,
) -> dict[str, Any]:
    """A name that is not there is deleted already: AWS answers `true` to it, so do we."""
    if not key_name and not key_pair_id:
        raise errors.MissingParameter(name="KeyName")
    gone = keypairs.delete(ctx, name=key_name, id=key_pair_id)
    return {"Return": True, "KeyPairId": ids.ec2("key", gone.id) if gone else None}


def _brief(pair: KeyPair, tagged: Mapping[str, str]) -> dict[str, Any]:
    return {
        "KeyName": pair.name,
        "KeyPairId": ids.ec2("key", pair.id),
        "KeyFingerprint": pair.fingerprint,
        "Tags": tags.shown(tagged),
    }


def _view(pair: KeyPair, tagged: Mapping[str, str], include_public_key: bool) -> dict[str, Any]:
    return {
        **_brief(pair, tagged),
        "KeyType": pair.kind,
        "CreateTime": pair.created_at,
        "PublicKey": pair.public_key if include_public_key else None,
    }
