"""The coverage pages say what the registries say."""

from __future__ import annotations

import pytest

import api_coverage
from minicloud.api.aws import protocol
from minicloud.objectstore import operations

# they say more of what is asked, not which operation it is
PARAMETERS = {"list-type", "select-type", "partNumber", "annotationName", "id"}


@pytest.mark.parametrize("page", api_coverage.PAGES)
def test_the_page_is_generated_from_this_source(page: str) -> None:
    assert (api_coverage.DOCS / page).read_text() == api_coverage.PAGES[page](), (
        "write it anew: PYTHONPATH=. python tools/api_coverage.py"
    )


def test_no_sub_resource_of_s3_is_taken_for_the_object_itself() -> None:
    """DELETE ?annotation of an object must not delete the object."""
    model = protocol.service("s3")
    known = operations.SUB_RESOURCES | PARAMETERS
    unknown = {
        name: sorted(api_coverage.sub_resources(model.operation_model(name)) - known)
        for name in model.operation_names
    }
    assert {name: words for name, words in unknown.items() if words} == {}
