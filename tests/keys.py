"""Fixed keys, so that what they make is the same in every run."""

from tiebreak.settings import Keyring

KEYRING = Keyring(
    seal_key_id="k1",
    seal_keys={"k1": b"seal-key-for-tests-seal-key-for-"},
    bundle_signing_key_id="k1",
    bundle_keys={"k1": b"bundle-key-for-tests-bundle-key-"},
    entity_key=b"entity-key-for-tests-entity-key-",
    sampling_key=b"sampling-key-for-tests-sampling-",
)
