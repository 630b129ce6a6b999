"""Regions, zones, images and instance types by an unmodified boto3."""

import pytest
from botocore.exceptions import ClientError


def code(call, **arguments):
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    return raised.value.response["Error"]["Code"]


def filters(**values):
    return [{"Name": name.replace("_", "-"), "Values": value} for name, value in values.items()]


def test_there_is_one_region_and_it_says_where_it_is(ec2, door):
    [region] = ec2.describe_regions()["Regions"]
    assert region["RegionName"] == "nova"
    assert region["Endpoint"] == door.url + "/services/Cloud"
    assert ec2.describe_regions(RegionNames=["nova"])["Regions"] == [region]
    assert ec2.describe_regions(Filters=filters(region_name=["n?v*"]))["Regions"] == [region]
    assert ec2.describe_regions(Filters=filters(region_name=["N*"]))["Regions"] == []


def test_zones_are_where_the_hosts_are(cloud, ec2):
    [zone] = ec2.describe_availability_zones()["AvailabilityZones"]
    assert (zone["ZoneName"], zone["State"], zone["RegionName"]) == ("nova", "available", "nova")
    assert ec2.describe_availability_zones(ZoneNames=["nova"])["AvailabilityZones"] == [zone]
    asked = filters(state=["available"], zone_name=["nova"])
    assert ec2.describe_availability_zones(Filters=asked)["AvailabilityZones"] == [zone]
    asked = filters(state=["unavailable"])
    assert ec2.describe_availability_zones(Filters=asked)["AvailabilityZones"] == []


def test_a_public_image_is_found_by_its_word(ec2):
    [image] = ec2.describe_images(ImageIds=["ami-tty"])["Images"]
    assert (image["ImageId"], image["Name"], image["State"]) == ("ami-tty", "tty", "available")
    assert (image["Public"], image["ImageType"], image["Architecture"]) == (
        True,
        "machine",
        "x86_64",
    )
    assert image["RootDeviceType"] == "instance-store"
    assert image["CreationDate"].endswith("Z")
    waiter = ec2.get_waiter("image_available")
    waiter.wait(ImageIds=["ami-tty"], WaiterConfig={"Delay": 0, "MaxAttempts": 1})


def test_images_are_found_by_owner_and_filter(ec2):
    assert ec2.describe_images(Owners=["self"])["Images"] == []
    assert len(ec2.describe_images(ExecutableUsers=["all"])["Images"]) == 1
    asked = filters(name=["t*"], state=["available"])
    assert len(ec2.describe_images(Filters=asked)["Images"]) == 1
    assert ec2.describe_images(Filters=filters(image_type=["kernel"]))["Images"] == []
    assert code(ec2.describe_images, ImageIds=["ami-none"]) in (
        "InvalidAMIID.NotFound",
        "InvalidAMIID.Malformed",
    )


def test_the_original_flavors_are_there(ec2):
    found = {one["InstanceType"]: one for one in ec2.describe_instance_types()["InstanceTypes"]}
    assert set(found) == {
        *("m1.tiny", "m1.small", "m1.medium", "m1.large", "m1.xlarge", "m1.nano")
    }
    small = found["m1.small"]
    assert (small["VCpuInfo"]["DefaultVCpus"], small["MemoryInfo"]["SizeInMiB"]) == (1, 2048)
    assert small["InstanceStorageInfo"]["TotalSizeInGB"] == 20
    nano = ec2.describe_instance_types(InstanceTypes=["m1.nano"])["InstanceTypes"]
    assert nano == [found["m1.nano"]]
    assert nano[0]["InstanceStorageSupported"] is False


def test_types_come_in_pages(ec2):
    pages = ec2.get_paginator("describe_instance_types").paginate(PaginationConfig={"PageSize": 5})
    assert [len(page["InstanceTypes"]) for page in pages] == [5, 1]
