"""What counts as an IPv4 address or range, with the standard library as the judge."""

import ipaddress

import pytest

from minicloud import addresses

LENIENT = (  # inet_aton's, int's and other readings of what is no address
    *(
        "10.1",
        "10",
        "0x0a000001",
        "167772161",
        "010.0.0.1",
        "10.0.0.01",
        "10.0.0.256",
        "10.0.0.-1",
    ),
    *("10.0.0.1 ", " 10.0.0.1", "10.0.0.1\n", "10.0.0.1\0", "10.0.0.1.", "10..0.1", "1.2.3.4.5"),
    *("", ".", "...", "+1.2.3.4", "1_0.0.0.1", "1٠.0.0.1", "\ud800", "::1", "::ffff:10.0.0.1"),
    *("10.0.0.1%eth0", "localhost", "9" * 5000),
)
LENGTHS = (
    *("", "24", "024", "0", "32", "33", "99", "-1", "+24", " 24", "24 ", "2_4", "٢٤", "24/24"),
    *("255.255.255.0", "0.0.0.255", "0.0.0.0", "255.255.255.255", "255.0.255.0", "255.255.255"),
    *("0x18", "24.0", "9" * 5000, "24\n", "24\0", "::"),
)


@pytest.mark.parametrize("text", ["10.0.0.1", "0.0.0.0", "255.255.255.255", *LENIENT])
def test_an_address_is_what_the_standard_library_takes_for_one(text):
    try:
        expected = int(ipaddress.IPv4Address(text))
    except ValueError:
        with pytest.raises(ValueError, match="IPv4"):
            addresses.address(text)
    else:
        assert int(addresses.address(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("10.0.0.0", "10.0.0.5", *LENIENT),
        *(f"{ip}/{length}" for ip in ("10.1.2.3", "10.1") for length in LENGTHS),
    ],
)
def test_a_range_is_what_the_standard_library_takes_for_one(text):
    try:
        expected = ipaddress.IPv4Interface(text)
    except ValueError:
        with pytest.raises(ValueError, match="IPv4"):
            addresses.block(text)
    else:
        found = addresses.block(text)
        assert (str(found.ip), str(found.cidr)) == (str(expected.ip), str(expected.network))


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("10.0.0.0/8", "10.5.0.0/16", True),
        ("10.5.0.0/16", "10.0.0.0/8", True),
        ("10.5.0.0/16", "10.5.0.0/16", True),
        ("10.5.0.0/16", "10.6.0.0/16", False),
        ("10.0.0.7", "10.0.0.6/31", True),
    ],
)
def test_ranges_overlap_when_they_share_an_address(one, other, meet):
    assert addresses.overlap(addresses.block(one), addresses.block(other)) is meet
