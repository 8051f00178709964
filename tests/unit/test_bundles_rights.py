"""The rights that the guide to S3 lists are those that the bucket's calls need, and no more."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

from tiebreak.bundles import bucket

GUIDE = (Path(__file__).parents[2] / "docs" / "howto" / "artifacts-on-s3.md").read_text()
RIGHTS = {
    "get_bucket_encryption": "s3:GetEncryptionConfiguration",
    "get_bucket_versioning": "s3:GetBucketVersioning",
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "list_objects_v2": "s3:ListBucket",
    "list_object_versions": "s3:ListBucketVersions",
    "delete_object": "s3:DeleteObjectVersion",
    "put_object": "s3:PutObject",
}


def test_the_guide_lists_the_rights_of_all_calls() -> None:
    calls = re.findall(r'client\.(?:get_paginator\(")?(\w+)', inspect.getsource(bucket))
    needed = {RIGHTS[call] for call in calls if call != "get_paginator"}
    (policy,) = re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)
    statements = json.loads(policy)["Statement"]
    assert {action for each in statements for action in each["Action"]} == needed
    assert {each["Effect"] for each in statements} == {"Allow"}
