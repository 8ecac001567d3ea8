"""A Hugging Face Hub in memory: enough of its HTTP API for the real client to create, upload and download.

It knows one user, `tester`, with the token `hf_test`, and speaks plain LFS, not Xet. A model goes by
`user/name`, a dataset by `datasets/user/name`, a Space by `spaces/user/name`. With the fixture `hub`, imported into
a test module or a conftest, the client of this process, and of those it starts, talks to one.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

TOKEN, USER = "hf_test", "tester"
LFS_ENDINGS = (".safetensors", ".mp4", ".parquet")


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        if self.lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()  # git's own


@dataclass(frozen=True)
class Commit:
    message: str
    parent: str
    files: dict[str, Blob]

    @property
    def oid(self) -> str:
        tree = [(path, blob.oid) for path, blob in sorted(self.files.items())]
        return hashlib.sha1(repr((self.message, self.parent, tree)).encode()).hexdigest()


@dataclass
class Repo:
    private: bool
    commits: list[Commit] = field(default_factory=lambda: [Commit("initial commit", "", {})])


class Refusal(Exception):  # noqa: N818
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code


def bare(repo: str) -> str:
    """The `user/name` of a repository of any kind."""
    return repo.removeprefix("datasets/").removeprefix("spaces/")


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []  # "METHOD /path", as they came
        self.faults: list[dict[str, Any]] = []
        self.lock = threading.RLock()

    def add_dataset(self, name: str, files: dict[str, bytes], private: bool = False) -> None:
        """Hold a dataset's files without a client's having uploaded them."""
        blobs = {path: Blob(data, lfs=path.endswith(LFS_ENDINGS)) for path, data in files.items()}
        self.repos[f"datasets/{name}"] = Repo(private, [Commit("Add files", "", blobs)])

    def fail(self, pattern: str, status: int, times: int | None = None, after: bool = False) -> None:
        """Answer requests whose "METHOD /path" matches with `status` (0: hang up), `times` times or always.

        With `after` the request is carried out first: only its answer is lost.
        """
        left = float("inf") if times is None else times
        self.faults.append({"pattern": pattern, "status": status, "left": left, "after": after})

    def count(self, pattern: str) -> int:
        return sum(re.search(pattern, request) is not None for request in self.requests)


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else headers and body, sent apart, wait 40 ms for each other

    def handle_any(self) -> None:
        request = f"{self.command} {unquote(urlsplit(self.path).path)}"
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.requests.append(request)
            faults = (f for f in self.server.faults if f["left"] > 0 and re.search(f["pattern"], request))
            fault = next(faults, None)
            try:
                answer = self.route(request) if fault is None or fault["after"] else None
                if fault is not None:
                    fault["left"] -= 1
                    raise Refusal(fault["status"], "injected fault")
            except Refusal as refusal:
                headers = {"X-Error-Message": refusal.message}
                headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
                answer = (refusal.status, b"<html>as a gateway answers</html>", headers)
        self.send(*answer)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def send(self, status: int, content: Any, headers: dict[str, str]) -> None:
        if status == 0:
            self.close_connection = True
            return
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

    def route(self, request: str) -> Any:
        for pattern, endpoint in ENDPOINTS:
            if match := re.fullmatch(pattern, request):
                groups = match.groupdict()
                if "repo" in groups:
                    groups["repo"] = groups["repo"].removeprefix("models/")
                answer = endpoint(self, **groups)
                return answer if isinstance(answer, tuple) else (200, answer, {})
        raise Refusal(404, f"no such endpoint: {request}")

    def signed_in(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Invalid credentials in Authorization header")

    def readable(self, repo: str) -> Repo:
        if repo not in self.server.repos:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if self.server.repos[repo].private:
            self.signed_in()
        return self.server.repos[repo]

    def writable(self, repo: str) -> Repo:
        self.signed_in()
        if not bare(repo).startswith(f"{USER}/"):
            raise Refusal(403, "You don't have the rights to write to this repository")
        return self.readable(repo)

    def commit_at(self, repo: str, revision: str | None) -> Commit:
        for commit in reversed(self.readable(repo).commits):
            if revision in (None, "main", commit.oid):
                return commit
        raise Refusal(404, "Invalid rev id", "RevisionNotFound")

    def whoami(self) -> Any:
        self.signed_in()
        return {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}}

    def create(self) -> Any:
        self.signed_in()
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        if not repo.startswith(f"{USER}/"):
            raise Refusal(403, "You don't have the rights to create a model under this namespace")
        if asked.get("type") == "space" and asked.get("sdk") not in ("gradio", "docker", "static"):
            raise Refusal(400, "a Space needs an sdk")
        repo = {"dataset": "datasets/", "space": "spaces/"}.get(asked.get("type"), "") + repo
        status = 409 if repo in self.server.repos else 200
        self.server.repos.setdefault(repo, Repo(private=asked.get("visibility") == "private"))
        return status, {"url": f"{self.server.url}/{repo}"}, {}

    def validate_card(self) -> Any:
        metadata = yaml.safe_load(json.loads(self.body)["content"].split("---")[1])
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", metadata.get("base_model", "none")):
            return {"errors": [], "warnings": []}
        return 400, {"errors": [{"message": '"base_model" is not valid'}], "warnings": []}, {}

    def info(self, repo: str, revision: str | None = None) -> Any:
        commit = self.commit_at(repo, revision)
        private = self.server.repos[repo].private
        return {
            "id": bare(repo),
            "sha": commit.oid,
            "private": private,
            "siblings": [{"rfilename": f} for f in commit.files],
        }

    def auth_check(self, repo: str, write: str | None) -> Any:
        (self.writable if write else self.readable)(repo)
        return {}

    def preupload(self, repo: str) -> Any:
        files = self.writable(repo).commits[-1].files
        known = {path: blob.oid for path, blob in files.items()}
        return {
            "files": [
                {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known.get(path)}
                for path in (file["path"] for file in json.loads(self.body)["files"])
                for mode in ["lfs" if path.endswith(LFS_ENDINGS) else "regular"]
            ]
        }

    def lfs_batch(self, repo: str) -> Any:
        self.writable(repo)
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.server.lfs:
                item["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "content does not match its hash")
        self.server.lfs[oid] = self.body
        return {}

    def commit(self, repo: str) -> Any:
        commits = self.writable(repo).commits
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        files = dict(commits[-1].files)
        for value in (operation["value"] for operation in operations):
            if "content" in value:
                files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            else:
                files[value["path"]] = Blob(self.server.lfs[value["oid"]], lfs=True)
        commits.append(Commit(header["value"]["summary"], commits[-1].oid, files))
        oid = commits[-1].oid
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"}

    def entries(self, repo: str, revision: str) -> dict[str, Any]:
        """Files and folders, as the Hub lists them, by path."""
        entries: dict[str, Any] = {}
        for path, blob in self.commit_at(repo, revision).files.items():
            for folder in (str(parent) for parent in list(PurePosixPath(path).parents)[-2::-1]):
                oid = hashlib.sha1(folder.encode()).hexdigest()
                entries.setdefault(folder, {"type": "directory", "path": folder, "size": 0, "oid": oid})
            entries[path] = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid}
            if blob.lfs:
                entries[path]["lfs"] = {"oid": blob.oid, "size": len(blob.data), "pointerSize": 134}
        return entries

    def tree(self, repo: str, revision: str, folder: str | None) -> Any:
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = self.entries(repo, revision)
        if folder is not None and entries.get(folder, {}).get("type") != "directory":
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        start = f"{folder}/" if folder else ""
        below = [entry for path, entry in entries.items() if path.startswith(start)]
        return [entry for entry in below if recursive or "/" not in entry["path"].removeprefix(start)]

    def paths_info(self, repo: str, revision: str) -> Any:
        entries = self.entries(repo, revision)
        return [entries[path] for path in json.loads(self.body)["paths"] if path in entries]

    def resolve(self, repo: str, revision: str, path: str) -> Any:
        commit = self.commit_at(repo, revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(len(blob.data))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return 200, blob.data, headers
        part = blob.data[int(asked[1]) : int(asked[2] or len(blob.data)) + 1]
        headers["Content-Range"] = f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(blob.data)}"
        return 206, part, headers


ID = r"[^/]+/[^/]+"
API = rf"/api/(?P<repo>(?:models|datasets|spaces)/{ID})"
REVISION = r"(?P<revision>[^/]+)"
ENDPOINTS: list[tuple[str, Any]] = [
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate_card),
    (rf"GET {API}(?:/revision/{REVISION})?", Handler.info),
    (rf"GET {API}/auth-check(?P<write>/write)?", Handler.auth_check),
    (rf"POST {API}/preupload/main", Handler.preupload),
    (rf"POST {API}/commit/main", Handler.commit),
    (rf"GET {API}/tree/{REVISION}(?:/(?P<folder>.+))?", Handler.tree),
    (rf"POST {API}/paths-info/{REVISION}", Handler.paths_info),
    (rf"POST /(?P<repo>(?:datasets/|spaces/)?{ID})\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"PUT /lfs/(?P<oid>\w+)", Handler.lfs_put),
    (rf"(?:GET|HEAD) /(?P<repo>(?:datasets/|spaces/)?{ID})/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
]


@contextmanager
def hub_server() -> Iterator[HubServer]:
    with HubServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub for one test, where the client is signed in as `tester` and its cache is empty.

    The client reads its environment once, when it is imported: the constants made of it are set as well.
    """
    import datasets
    from huggingface_hub import close_session, constants, hf_api

    home = tmp_path_factory.mktemp("hf_home")
    with hub_server() as server:
        paths = {"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_TOKEN_PATH": home / "token"}
        on = ["HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK"]
        settings = dict.fromkeys(on, True) | {name: str(path) for name, path in paths.items()}
        for name, value in (settings | {"HF_HUB_OFFLINE": False}).items():
            monkeypatch.setattr(constants, name, value)
            monkeypatch.setenv(name, value if isinstance(value, str) else str(int(value)))
        monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)  # behind the functions the package exports
        cache = home / "datasets"
        for name, value in {
            "HF_ENDPOINT": server.url,
            "HUB_DATASETS_URL": server.url + "/datasets/{repo_id}/resolve/{revision}/{path}",
            "HF_HUB_OFFLINE": False,
            "HF_UPDATE_DOWNLOAD_COUNTS": False,
            "HF_DATASETS_CACHE": cache,
            "DOWNLOADED_DATASETS_PATH": cache / "downloads",
            "EXTRACTED_DATASETS_PATH": cache / "downloads" / "extracted",
        }.items():
            monkeypatch.setattr(datasets.config, name, value)
        monkeypatch.setenv("HF_UPDATE_DOWNLOAD_COUNTS", "0")
        yield server
        close_session()
