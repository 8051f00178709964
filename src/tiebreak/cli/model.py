"""Look at, verify, bring in, hand out and sign model bundles, and make their keys."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from tiebreak.audit.journal import entry
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import write_whole
from tiebreak.bundles.format import digest_of, open_bundle
from tiebreak.bundles.keys import new_private_key, public_of
from tiebreak.bundles.signing import MAGIC, BundleKeys, payload_of, sign_anew, signed_by, verify
from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import PersonOption, ReasonOption, Session, act, look
from tiebreak.core.model import MANIFEST, Model
from tiebreak.errors import Conflict, IntegrityFailure, InvalidInput, NotFound
from tiebreak.registry.cards import markdown, page, sections
from tiebreak.registry.models import Catalogue, ModelFile, StoredModel, difference, listed
from tiebreak.registry.proposals import find_digest
from tiebreak.secret_files import REVOKED, read_public, write_secret
from tiebreak.settings import Keyring, Settings
from tiebreak.store import tables
from tiebreak.workflows import versions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tiebreak.training.legacy.importing import LegacyFile

BUNDLE_ENDING, JOBLIB_ENDING, SIGNATURE_ENDING = ".bundle", ".joblib", ".sig"
FORMS = ("md", "html")

app = typer.Typer()

DigestArgument = Annotated[str, typer.Argument(help="Digest of a model, or its first digits.")]


class FileMissing(NotFound):
    """There is no such file."""

    code = "file_missing"


class KeyExists(Conflict):
    """A key of this id is here already."""

    code = "key_exists"


# Pickles, plain or compressed by one of joblib's ways: zlib, gzip, bzip2, xz, lzma, lz4.
_JOBLIB = (
    b"\x80",
    *(b"x" + level for level in (b"\x01", b"\x5e", b"\x9c", b"\xda")),
    *(b"\x1f\x8b", b"BZ", b"\xfd7zXZ", b"\x5d\x00", b"\x04\x22M\x18"),
)


class FormUnknown(InvalidInput):
    """This is not something that can be written or read."""

    code = "form_unknown"


class OtherWorkflow(InvalidInput):
    """The bundle is a model of another workflow."""

    code = "other_workflow"


@app.callback()
def _group() -> None:
    """Look at, verify, bring in, hand out and sign model bundles, and make their keys."""


@app.command(name="list")
def list_(
    workflow: Annotated[str | None, typer.Option(help="Only of this workflow.")] = None,
    json: JsonOption = False,
) -> None:
    """List the stored models, newest first: what they are, who made them, where they are in use.

    Example: `tiebreak model list --workflow locate`
    """
    found = look(lambda session: _catalogue(session).list())
    found = [model for model in found if workflow in (None, model.workflow)]
    columns = ("model", "workflow", "family", "PR-AUC", "made", "by", "in use", "key")
    Output(as_json=json).result(
        {"models": [listed(model) for model in found]},
        table("Models", columns, [_line(model) for model in found]),
    )


@app.command()
def show(digest: DigestArgument, json: JsonOption = False) -> None:
    """Show one model: its data, figures, features and lineage.

    Example: `tiebreak model show 3f2a`
    """
    file = look(lambda session: _file(session, digest))
    told = {
        "model": listed(file.model),
        "manifest": file.manifest,
        "lineage": asdict(file.lineage),
    }
    Output(as_json=json).result(told, *_shown(file))


@app.command()
def card(
    digest: DigestArgument,
    form: Annotated[str, typer.Option("--format", help="`md` or `html`.")] = "md",
    to: Annotated[Path | None, typer.Option(help="Write it there; default: show it.")] = None,
    json: JsonOption = False,
) -> None:
    """Write a model's card: data, figures, limits, lineage.

    Example: `tiebreak model card 3f2a --format html --to card.html`
    """
    if form not in FORMS:
        raise FormUnknown(f"There is no format {form!r}.", hint="Use `md` or `html`.")
    file = look(lambda session: _file(session, digest))
    text = markdown(file) if form == "md" else page(file)
    if to is not None:
        to.write_text(text)
    told = {"digest": file.model.digest, "format": form, "path": to and str(to), "card": text}
    Output(as_json=json).result(told, f"Written to {to}" if to else text)


@app.command(name="verify")
def verify_(
    model: Annotated[str, typer.Argument(help="Digest of a stored model, or a bundle's file.")],
    json: JsonOption = False,
) -> None:
    """Check a bundle's signature and content with the keys of this installation.

    Example: `tiebreak model verify 3f2a`
    """
    settings = Settings.load()
    keys = BundleKeys.of(Keyring.load(settings))
    path = Path(model)
    if path.suffix == BUNDLE_ENDING or path.is_file():
        data = _read(path)
        digest = digest_of(payload_of(data))
    else:
        artifacts = ArtifactStore.of(settings)
        digest = find_digest(artifacts, model)
        data = artifacts.read_bundle(digest)
    loaded = Model.load(open_bundle(data, keys, expect_digest=digest), digest)
    key_id, algorithm = signed_by(data)
    told = {
        "digest": digest,
        "key_id": key_id,
        "algorithm": algorithm,
        "workflow": loaded.manifest.get("workflow"),
        "verified": True,
    }
    Output(as_json=json).result(told, f"{digest[:12]} is whole, signed by {key_id} ({algorithm}).")


@app.command()
def diff(
    old: DigestArgument,
    new: Annotated[str, typer.Argument(help="Digest of another model.")],
    json: JsonOption = False,
) -> None:
    """Show what differs between two models: features, parameters, figures, data.

    Example: `tiebreak model diff 3f2a 9bc1`
    """

    async def work(session: Session) -> tuple[ModelFile, ModelFile]:
        return await _file(session, old), await _file(session, new)

    a, b = look(work)
    for file in (a, b):
        if not file.manifest:
            raise FormUnknown(
                f"Model {file.model.digest[:12]} does not load: {file.model.problem}",
                hint=f"`tiebreak model verify {file.model.digest[:12]}` says why.",
            )
    told = difference(a.manifest, b.manifest)
    rows: list[tuple[object, ...]] = []
    for part, changes in told.items():
        for name, change in changes.items():
            pair = ("", ", ".join(change)) if part == "features" else (change[0], change[1])
            if pair[0] != pair[1]:
                rows.append((part, name, _value(pair[0]), _value(pair[1])))
    title = f"{a.model.digest[:12]} → {b.model.digest[:12]}"
    Output(as_json=json).result(
        {"old": a.model.digest, "new": b.model.digest, **told},
        table(title, ("part", "what", "old", "new"), rows),
    )


@app.command()
def export(
    digest: DigestArgument,
    to: Annotated[Path, typer.Option(help="The file to write.")],
    joblib: Annotated[
        bool, typer.Option("--joblib", help="Write a joblib file and its .sig instead.")
    ] = False,
    key: Annotated[
        Path | None, typer.Option(help="With --joblib: the file of the HMAC key, in hex.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a stored model as a signed bundle, or as joblib for systems that still need it.

    The scores of the joblib model are those before calibration.

    Example: `tiebreak model export 3f2a --to model.bundle`
    """
    settings = Settings.load()
    artifacts = ArtifactStore.of(settings)
    found = find_digest(artifacts, digest)
    data = artifacts.read_bundle(found)
    parts = open_bundle(data, BundleKeys.of(Keyring.load(settings)), expect_digest=found)
    written = [to]
    if joblib:
        from tiebreak.training.legacy.exporting import signature_of, to_joblib  # slow to import

        data = to_joblib(parts)
        written.append(_signature_path(to))
        write_whole(written[1], f"{signature_of(data, _legacy_key(key))}\n".encode())
    write_whole(to, data)
    paths = [str(path) for path in written]
    Output(as_json=json).result({"digest": found, "paths": paths}, f"Written: {', '.join(paths)}")


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A bundle, or the joblib file of a legacy model.")],
    workflow: Annotated[str, typer.Option(help="The workflow that it is a model of.")],
    reason: ReasonOption,
    key: Annotated[
        Path | None, typer.Option(help="Of a joblib file: the file of its HMAC key, in hex.")
    ] = None,
    sig: Annotated[
        Path | None, typer.Option(help="Of a joblib file: its signature; default: FILE.sig.")
    ] = None,
    map_: Annotated[
        Path | None, typer.Option("--map", help="Of a joblib file: which input is which feature.")
    ] = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Bring in a model as the workflow's candidate; nothing goes into production.

    A bundle must be signed with an active key. A joblib file must carry the HMAC of its key: it
    is verified, opened once in a process that can reach nothing, and turned into a bundle that is
    proved to give the same scores.

    Example: `tiebreak model import risk.joblib --workflow locate --key k.hex --reason "as before"`
    """
    data = _read(file)
    is_bundle = data.startswith(MAGIC)
    legacy = None if is_bundle else _legacy(file, data, key, sig, map_)

    async def work(session: Session) -> dict[str, Any]:
        stored = await versions.latest(session.db, workflow)
        if legacy is None:
            return await _import_bundle(session, workflow, data, reason)
        from tiebreak.training.legacy.importing import LegacyImporter  # slow to import

        importer = LegacyImporter(
            session.db,
            session.lane,
            session.artifacts,
            session.bundle_keys,
            session.keyring.entity_key,
        )
        done = await importer.run(stored.workflow, legacy, author=session.person, reason=reason)
        kept = ("origin", "family", "trees", "metrics", "parity")
        return {"digest": done.digest, **{name: done.manifest[name] for name in kept}}

    told: dict[str, Any] = {**act(person, work), "workflow": workflow}
    output = Output(as_json=json)
    parity: Any = told.get("parity")
    proved = (
        f"; proved on {parity['rows']:,} rows, largest difference {parity['score']:.1e}"
        if parity and "score" in parity
        else ""
    )
    output.result(told, f"Imported as {told['digest'][:12]}, candidate of {workflow}{proved}.")
    output.note(
        f"Next: `tiebreak release propose {workflow} --bundle {told['digest'][:12]} --reason WHY`"
    )


@app.command()
def renew(
    digest: Annotated[
        list[str] | None, typer.Argument(help="Digests; default: all that another key signed.")
    ] = None,
    reason: ReasonOption = "key rotation",
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Sign stored models anew with the signing key; digests, and so policies, stay the same.

    Do it before an old key is removed or revoked.

    Example: `tiebreak model renew --reason "key of 2026"`
    """

    async def work(session: Session) -> dict[str, list[Any]]:
        artifacts, keys = session.artifacts, session.bundle_keys
        wanted = [find_digest(artifacts, start) for start in digest or ()]
        renewed: list[str] = []
        failed: list[dict[str, str]] = []
        for each in wanted or artifacts.list_bundles():
            data = artifacts.read_bundle(each)
            try:
                is_new = signed_by(data)[0] == keys.signing and bool(verify(data, keys))
                if not is_new:
                    artifacts.put_bundle(sign_anew(data, keys))
                    renewed.append(each)
            except IntegrityFailure as error:
                failed.append({"digest": each, "problem": str(error)})
        await _journal(session, "model.renewed", f"key {keys.signing}", reason, renewed)
        return {"renewed": renewed, "failed": failed}

    told = act(person, work)
    shown = [(item["digest"][:12], item["problem"]) for item in told["failed"]]
    parts = [table("Not signed anew", ("model", "why"), shown)] if shown else []
    Output(as_json=json).result(told, f"Signed anew: {len(told['renewed'])} models.", *parts)


@app.command()
def keygen(
    key_id: Annotated[str, typer.Argument(help="Its id, up to 16 letters, such as `ed-2026`.")],
    to: Annotated[
        Path | None, typer.Option(help="Folder for both files; default: this installation's keys.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make an Ed25519 pair for signing models: servers need the public file alone.

    Example: `tiebreak model keygen ed-2026`
    """
    folder = to or Settings.load().secrets_dir
    private = new_private_key()
    BundleKeys({key_id: private}, None)  # refuses ids that do not fit
    names = [f"bundle.{key_id}.{ending}" for ending in ("private", "public")]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in (*names, f"bundle.{key_id}.key"):
        if (folder / name).exists():
            raise KeyExists(f"{folder / name} is there already.", hint="Choose another id.")
    for name, value in zip(names, (private, public_of(private)), strict=True):
        write_secret(folder, name, value.hex())
    told = {
        "key_id": key_id,
        "private": str(folder / names[0]),
        "public": str(folder / names[1]),
        "public_key": public_of(private).hex(),
    }
    output = Output(as_json=json)
    output.result(told, f"Private key: {told['private']}", f"Public key:  {told['public']}")
    output.note(
        f"Next: put {names[1]} into the servers' folder of secrets, and `{key_id}` into "
        "bundle.current where models are signed."
    )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id of the key.")],
    reason: ReasonOption,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke a key: from the next start on, what it signed does not load on this installation.

    Example: `tiebreak model revoke k1 --reason "laptop lost"`
    """

    async def work(session: Session) -> dict[str, Any]:
        folder = session.settings.secrets_dir
        known = read_public(folder, REVOKED).split()
        hit = [
            each
            for each in session.artifacts.list_bundles()
            if signed_by(session.artifacts.read_bundle(each))[0] == key_id
        ]
        # refuses to take away the signing key
        keys = session.bundle_keys
        BundleKeys(keys.active, keys.signing, keys.revoked | {key_id})
        if key_id not in known:
            write_secret(folder, REVOKED, "\n".join([*known, key_id]))
        await _journal(session, "bundle_key.revoked", key_id, reason, hit)
        return {"key_id": key_id, "models": hit}

    told = act(person, work)
    output = Output(as_json=json)
    output.result(told, f"Key {key_id} is revoked; it signed {len(told['models'])} stored models.")
    output.note("Next: restart the servers, and put the id into `bundle.revoked` of the others.")


def _catalogue(session: Session) -> Catalogue:
    return Catalogue(session.db, session.artifacts, session.bundle_keys, session.keyring)


async def _file(session: Session, start: str) -> ModelFile:
    return await _catalogue(session).get(find_digest(session.artifacts, start))


async def _import_bundle(
    session: Session, workflow: str, data: bytes, reason: str
) -> dict[str, Any]:
    digest = digest_of(payload_of(data))
    parts = open_bundle(data, session.bundle_keys, expect_digest=digest)
    manifest: dict[str, Any] = orjson.loads(parts[MANIFEST])
    if manifest["workflow"] != workflow:
        raise OtherWorkflow(
            f"The bundle is a model of {manifest['workflow']}.",
            hint=f"Import it with --workflow {manifest['workflow']}.",
        )
    Model.load(parts, digest)
    session.artifacts.put_bundle(data)
    session.artifacts.set_alias(workflow, "risk_model_candidate", digest)
    await _journal(session, "model.imported", f"{workflow}/{digest}", reason, [digest])
    return {"digest": digest, "family": manifest["family"], "metrics": manifest["metrics"]}


async def _journal(
    session: Session, action: str, subject: str, reason: str, models: list[str]
) -> None:
    async with session.lane.unit() as unit:
        row = entry(session.person, action, subject, {"reason": reason, "models": models})
        unit.add(tables.system_audit, [row])


def _legacy(
    file: Path, data: bytes, key: Path | None, sig: Path | None, map_: Path | None
) -> LegacyFile:
    from tiebreak.training.legacy.importing import LegacyFile  # slow to import
    from tiebreak.training.legacy.mapping import read_mapping

    if not data.startswith(_JOBLIB):
        raise FormUnknown(
            f"{file} is {_kind(data)}: neither a bundle nor a joblib file.",
            hint="A bundle is what `tiebreak model export` writes.",
        )
    signature = sig or _signature_path(file)
    return LegacyFile(
        data=data,
        signature=_text(signature) if signature.is_file() else None,
        key=_legacy_key(key),
        mapping=None if map_ is None else read_mapping(_read(map_).decode()),
    )


def _kind(data: bytes) -> str:
    """What a file is that is no model."""
    if not data:
        return "empty"
    if data.startswith(b"PK"):
        return "a zip archive"
    is_text = all(byte >= 32 or byte in b"\t\r\n" for byte in data[:1_000])
    begins = repr(data[:20].decode(errors="replace"))
    return f"a text that begins with {begins}" if is_text else "of another kind"


def _text(path: Path) -> str:
    return _read(path).decode(errors="replace")


def _signature_path(file: Path) -> Path:
    return file.with_name(file.name.removesuffix(JOBLIB_ENDING) + SIGNATURE_ENDING)


def _legacy_key(path: Path | None) -> bytes:
    if path is None:
        raise FormUnknown("A joblib file needs its HMAC key.", hint="Name its file with --key.")
    try:
        return bytes.fromhex(_read(path).decode().strip())
    except ValueError:
        raise FormUnknown(f"{path} does not hold a key in hexadecimal.") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileMissing(f"{path} cannot be read: {error.strerror}.") from None


def _line(model: StoredModel) -> tuple[object, ...]:
    made = f"{model.made_at:%Y-%m-%d %H:%M}" if model.made_at else ""
    figure = model.metrics.get("pr_auc")
    return (
        model.digest[:12],
        model.workflow or f"does not load: {model.problem}",
        f"{model.family or ''}{' (imported)' if model.origin not in (None, 'trained') else ''}",
        "" if figure is None else f"{figure:.3f}",
        made,
        model.made_by or "",
        ", ".join(model.uses),
        model.key_id or "",
    )


def _shown(file: ModelFile) -> list[RenderableType]:
    found: list[RenderableType] = []
    for section in sections(file):
        found.append(table(section.title, section.columns, section.rows))
        found += [section.text] if section.text else []
    return found


def _value(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text[:12] if len(text) == 64 else text
