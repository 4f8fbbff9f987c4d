"""The Hugging Face Hub as this studio uses it: one listing per repository, and the bytes of a file from any offset.

`hf_hub_download` is not used: in huggingface_hub 2.4 it writes to a random name and deletes it when the connection
breaks, so 5 GB that were cut off start again at zero. Names, sizes, hashes, addresses, headers and errors are the
library's. The token comes from `HF_TOKEN` only and is never written anywhere.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url, is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from engine import __version__
from engine.errors import WeightsMismatch, WeightsMissing

TIMEOUT_S = 30.0
TRY_LATER = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RemoteFile:
    """A file on the Hub. `sha256` of its bytes for large files, `blob_id` (git's hash) for the small ones."""

    path: str
    size: int
    sha256: str | None = None
    blob_id: str | None = None


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    repo: str
    commit: str
    files: Mapping[str, RemoteFile]


class ConnectionCut(Exception):
    """The connection broke, or the Hub asks to come back later: worth another try."""


class RangeRefused(Exception):
    """The server will not go on from that byte."""


class Hub:
    """The Hub at `endpoint` (default: `HF_ENDPOINT`, else huggingface.co)."""

    def __init__(self, endpoint: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.timeout_s = timeout_s
        self.token: str | bool = os.environ.get("HF_TOKEN") or False

    def listing(self, repo: str, revision: str) -> Listing:
        """Names, sizes and hashes of all files of `repo` at `revision`; raises `ConnectionCut` without a connection."""
        api = HfApi(endpoint=self.endpoint, token=self.token)
        with self._explained(repo):
            try:
                info = api.model_info(repo, revision=revision, files_metadata=True, timeout=self.timeout_s)
            except (JSONDecodeError, TypeError, KeyError) as err:
                raise WeightsMissing(f"{self.endpoint} does not answer like a Hub.", "Check HF_ENDPOINT.") from err
        files = {}
        for sibling in info.siblings or []:
            if sibling.size is not None:
                lfs = sibling.lfs.sha256 if sibling.lfs else None
                files[sibling.rfilename] = RemoteFile(sibling.rfilename, sibling.size, lfs, sibling.blob_id)
        if not info.sha:
            raise WeightsMismatch(f"The Hub did not say which commit of {repo} it listed.", "Check HF_ENDPOINT.")
        return Listing(repo, info.sha, files)

    def chunks(self, listing: Listing, file: RemoteFile, *, start: int) -> Iterator[bytes]:
        """The bytes of `file` from byte `start` on, as they arrive."""
        url = hf_hub_url(listing.repo, file.path, revision=listing.commit, endpoint=self.endpoint)
        headers = build_hf_headers(token=self.token, library_name="svi-studio", library_version=__version__)
        headers |= {"accept-encoding": "identity"}  # a range counts the bytes of the file, not of its compression
        if start:
            headers["range"] = f"bytes={start}-"
        with (
            self._explained(listing.repo, file.path),
            get_session().stream("GET", url, headers=headers, timeout=self.timeout_s) as response,
        ):
            if response.status_code == 416:
                raise RangeRefused
            hf_raise_for_status(response)
            if start and not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
                raise RangeRefused
            yield from response.iter_raw()

    @contextmanager
    def _explained(self, repo: str, path: str = "") -> Iterator[None]:
        """Turn what can go wrong on the way to `repo` into one sentence, or into `ConnectionCut`."""
        what = f"{path} of {repo}" if path else repo
        page = f"{self.endpoint}/{repo}"
        try:
            if is_offline_mode():
                raise OfflineModeIsEnabled
            yield
        except OfflineModeIsEnabled as err:
            raise WeightsMissing(
                f"{what} is not here, and HF_HUB_OFFLINE forbids to fetch it.", "Unset HF_HUB_OFFLINE and try again."
            ) from err
        except GatedRepoError as err:
            raise WeightsMissing(
                f"{repo} is given only to those who accept its licence.",
                f"Accept it at {page}, set HF_TOKEN to your token, and run the same command again.",
            ) from err
        except RevisionNotFoundError as err:
            raise WeightsMissing(f"{repo} no longer has the commit that was asked for.", f"See {page}.") from err
        except RemoteEntryNotFoundError as err:
            raise WeightsMissing(f"There is no file {path} in {repo}.", f"See {page}/tree/main.") from err
        except RepositoryNotFoundError as err:
            raise WeightsMissing(
                f"There is no repository {repo}, or it is private.", f"See {page}; a private one needs HF_TOKEN."
            ) from err
        except HfHubHTTPError as err:
            raise _refusal(err.response.status_code, what, page) from err
        except HFValidationError as err:
            raise WeightsMissing(f"“{repo}” cannot be the name of a repository.", "Check assets/weights.yaml.") from err
        except httpx2.RequestError as err:
            raise ConnectionCut(type(err).__name__) from err


def _refusal(status: int, what: str, page: str) -> Exception:
    if status in TRY_LATER:
        return ConnectionCut(f"HTTP {status}")
    if status in (401, 403):
        return WeightsMissing(
            f"The Hub does not give {what} to you (HTTP {status}).",
            f"Look at {page}, and check that HF_TOKEN is a token of yours with access to it.",
        )
    return WeightsMissing(f"The Hub answered {status} when asked for {what}.", f"See {page}.")
