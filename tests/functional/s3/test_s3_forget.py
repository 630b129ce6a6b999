"""When the operator begins anew, nobody's bytes stay."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from minicloud.cloud import operator, projects, users
from minicloud.context import admin
from tests.conftest import InProcessCloud
from tests.functional.s3.conftest import Store


def test_files_of_objects_and_parts_go_with_the_buckets(store: Store, s3: Any) -> None:
    for number in range(5):
        s3.put_object(Bucket="box", Key=f"key {number}", Body=b"bytes")
    s3.put_object(Bucket="box", Key="key 0", Body=b"other bytes", ACL="public-read")
    upload = s3.create_multipart_upload(Bucket="box", Key="big")["UploadId"]
    s3.upload_part(Bucket="box", Key="big", UploadId=upload, PartNumber=1, Body=b"part")
    assert not store.settled(0)
    operator.forget(admin())
    InProcessCloud.wait(lambda: store.settled(0))
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        s3.list_buckets()

    # whoever comes then may have the name
    users.create(admin(), "bob")
    projects.create(admin(), "bobs", "bob")
    again = store.client(projects.credentials(admin(), "bobs", "bob"))
    again.create_bucket(Bucket="box")
    assert again.list_objects_v2(Bucket="box")["KeyCount"] == 0
