"""Every kind of request, of all three protocols, to one cloud: what is answered, and how."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Collection
from typing import Any

from botocore import exceptions

from tests.integration.running import RunningCloud, run, state, wait

LIMIT_S = 60.0  # in which everything is answered
DISK = b"\xeb\x63" + bytes(510) + b"disk" * 100
SETTLED = {"running", "terminated", "available", "deleted", "active", "uploading"}
CODES = {"Unavailable", "ServiceUnavailable", "serviceUnavailable", "Service Unavailable"}

# what writes rows, what reads them, what a host is asked, what needs the object store's bytes
ACCEPTED = ("ec2 run", "ec2 reboot", "ec2 volume", "ec2 image", "compute create")
LOOKS = ("ec2 look", "compute look", "image look", "identity token")
HOSTS_WORK = ("ec2 console", "compute console")
STORED = ("image upload", "image download")
S3_READS, S3_WRITES = ("s3 list", "s3 get"), ("s3 put",)
READS = (*LOOKS, *S3_READS, "image download")
WRITES = (*ACCEPTED, *S3_WRITES, "image upload")


@dataclasses.dataclass(frozen=True)
class Refused:
    """An answer that is an error, in its protocol's own form."""

    status: int
    text: str


class Doors:
    """A user's clients; ask while everything is there first, as a user's tools do who log in."""

    def __init__(self, cloud: RunningCloud) -> None:
        self.cloud = cloud
        self.ec2, self.s3 = cloud.ec2(), cloud.s3()
        self.instance = self.run()
        wait(lambda: state(self.ec2, self.instance) == "running")
        self._token, self._urls = self._logged_in()
        [flavor] = self._asked("compute", "/flavors")["flavors"][:1]
        [image] = self._asked("image", "/v2/images?name=ami-tty")["images"]
        [server] = self._asked("compute", "/servers")["servers"]
        self._flavor, self._image, self._server = flavor["id"], image["id"], server["id"]
        self._bucket = f"doors-{uuid.uuid4()}"
        self.s3.create_bucket(Bucket=self._bucket)
        self.s3.put_object(Bucket=self._bucket, Key="disk", Body=DISK)
        self._asks: dict[str, Callable[[], object]] = {
            "ec2 look": self.ec2.describe_instances,
            "ec2 run": self.run,
            "ec2 reboot": self.reboot,
            "ec2 console": lambda: self.ec2.get_console_output(InstanceId=self.instance),
            "ec2 volume": lambda: self.ec2.create_volume(AvailabilityZone="nova", Size=1),
            "ec2 image": lambda: self.ec2.register_image(
                Name=str(uuid.uuid4()), ImageLocation=f"{self._bucket}/disk"
            ),
            "compute look": lambda: self._asked("compute", "/servers/detail"),
            "compute create": self._create,
            "compute console": lambda: self._asked(
                "compute", f"/servers/{self._server}/action", {"os-getConsoleOutput": {}}
            ),
            "image look": lambda: self._asked("image", "/v2/images"),
            "image upload": self._upload,
            "image download": lambda: self._asked("image", f"/v2/images/{self._image}/file"),
            "identity token": self._logged_in,
            "s3 list": self.s3.list_buckets,
            "s3 get": lambda: self.s3.get_object(Bucket=self._bucket, Key="disk"),
            "s3 put": lambda: self.s3.put_object(Bucket=self._bucket, Key="put", Body=DISK),
        }

    def run(self) -> str:
        """A new instance's id."""
        return run(self.ec2)

    def reboot(self) -> None:
        self.ec2.reboot_instances(InstanceIds=[self.instance])

    def ask(self, name: str) -> Refused | None:
        """None when it was answered as asked."""
        try:
            self._asks[name]()
        except exceptions.ClientError as error:
            told = error.response
            assert told["Error"]["Code"] in CODES, told
            return Refused(told["ResponseMetadata"]["HTTPStatusCode"], told["Error"]["Message"])
        except urllib.error.HTTPError as error:
            [(kind, told)] = json.loads(error.read()).items()
            assert {kind, told.get("title")} & CODES, told
            return Refused(error.code, told["message"])
        return None

    def refused_of(self, names: Collection[str]) -> dict[str, Refused]:
        """Those that are refused when all of them are asked at once."""
        with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
            answers = dict(zip(names, pool.map(self.ask, names, timeout=LIMIT_S), strict=True))
        return {name: answer for name, answer in answers.items() if answer}

    def settled(self) -> bool:
        """Nothing that was accepted waits, and none of it has failed."""
        tables = ("instances", "volumes", "images")
        found = self.cloud.rows(
            " UNION ".join(f"SELECT '{table}', state, reason FROM {table}" for table in tables)
        )
        assert "error" not in {state for _, state, _ in found}, found
        return {state for _, state, _ in found} <= SETTLED

    def give_back(self) -> None:
        """No volume and no image is left that was made here."""
        for volume in self.ec2.describe_volumes()["Volumes"]:
            self.ec2.delete_volume(VolumeId=volume["VolumeId"])
        for image in self.ec2.describe_images(Owners=["self"])["Images"]:
            if image["Name"] != "ami-tty" and image["ImageType"] == "machine":
                self.ec2.deregister_image(ImageId=image["ImageId"])

    def _create(self) -> None:
        asked = {"name": "a", "imageRef": self._image, "flavorRef": self._flavor}
        self._asked("compute", "/servers", {"server": asked})

    def _upload(self) -> None:
        asked = {"name": "upload", "disk_format": "raw", "container_format": "bare"}
        id = self._asked("image", "/v2/images", asked)["id"]
        self._asked("image", f"/v2/images/{id}/file", DISK, "PUT")

    def _logged_in(self) -> tuple[str, dict[str, str]]:
        """A token, and where its catalog says that each service is."""
        given = self.cloud.environment
        domain = {"name": "Default"}
        user = {"name": given["OS_USERNAME"], "password": given["OS_PASSWORD"], "domain": domain}
        project = {"name": given["OS_PROJECT_NAME"], "domain": domain}
        identity = {"methods": ["password"], "password": {"user": user}}
        asked = {"auth": {"identity": identity, "scope": {"project": project}}}
        request = urllib.request.Request(
            f"{given['OS_AUTH_URL']}/auth/tokens",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            catalog = json.load(answer)["token"]["catalog"]
            urls = {one["type"]: one["endpoints"][0]["url"] for one in catalog}
            return answer.headers["X-Subject-Token"], urls

    def _asked(self, service: str, path: str, data: Any = None, method: str | None = None) -> Any:
        """The answer to JSON, or to bytes; of JSON that is empty, or none, its bytes."""
        kind = "application/octet-stream" if isinstance(data, bytes) else "application/json"
        body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
        headers = {"X-Auth-Token": self._token, "Content-Type": kind}
        url = self._urls[service] + path
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            text = answer.read()
            return json.loads(text) if re.match(rb"\{", text) else text
