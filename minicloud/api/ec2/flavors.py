"""Instance types, which OpenStack calls flavors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minicloud.api.ec2.actions import action
from minicloud.cloud import flavors
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import Flavor


@action(filters=flavors.FILTERS)
def describe_instance_types(
    ctx: Context,
    *,
    instance_types: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
    max_results: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    page = flavors.find(
        ctx,
        names=instance_types or [],
        filters=filters or {},
        limit=max_results,
        after=next_token,
    )
    return {"InstanceTypes": [_view(flavor) for flavor in page.items], "NextToken": page.next}


def _view(flavor: Flavor) -> dict[str, Any]:
    storage = None
    if flavor.disk_gib:
        disks = [{"SizeInGB": flavor.disk_gib, "Count": 1}]
        storage = {"TotalSizeInGB": flavor.disk_gib, "Disks": disks}
    return {
        "InstanceType": flavor.name,
        "CurrentGeneration": True,
        "FreeTierEligible": False,
        "SupportedUsageClasses": ["on-demand"],
        "SupportedRootDeviceTypes": ["instance-store"],
        "SupportedVirtualizationTypes": ["hvm"],
        "BareMetal": False,
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
        "VCpuInfo": {
            "DefaultVCpus": flavor.vcpus,
            "DefaultCores": flavor.vcpus,
            "DefaultThreadsPerCore": 1,
        },
        "MemoryInfo": {"SizeInMiB": flavor.memory_mib},
        "InstanceStorageSupported": storage is not None,
        "InstanceStorageInfo": storage,
        "EbsInfo": {"EbsOptimizedSupport": "unsupported"},
        "NetworkInfo": {
            "MaximumNetworkInterfaces": 1,
            "Ipv4AddressesPerInterface": 1,
            "Ipv6AddressesPerInterface": 0,
            "Ipv6Supported": False,
        },
        "HibernationSupported": False,
        "BurstablePerformanceSupported": False,
        "DedicatedHostsSupported": False,
        "AutoRecoverySupported": False,
        "SupportedBootModes": ["legacy-bios"],
    }
