"""A stand-in for the Hugging Face Hub on the loopback: the part of its HTTP interface that pushing and loading need.

Repositories live in memory. Small files arrive in the commit itself, weights and Parquet as LFS objects; downloads of
these are redirected to a second port, as the Hub redirects them to its storage. The one valid token is `TOKEN`; it may
write to `OWNER`.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN, OWNER = "hf_standin", "orchestra"
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".bin", ".sf2")
REPO_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
ID = r"([\w.-]+/[\w.-]+)"
API = rf"/api/(models|datasets|spaces)/{ID}"
FILES = rf"/(datasets/|spaces/)?{ID}"

# Of https://huggingface.co/docs/hub/repositories-licenses, those that music and code of this project can have.
LICENCES = {
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0",
    "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "pddl", "odc-by", "odbl", "unknown", "other",
}  # fmt: skip
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
SIZES = {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M"}


def card_problems(content: str, repo_type: str) -> list[str]:
    """What the Hub would say against the metadata of a README.md; empty where it is fine."""
    match = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
    if match is None:
        return ["there is no YAML block between two lines of ---"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [str(error)]
    if not isinstance(data, dict):
        return ["the metadata are no mapping"]
    problems = []
    licences = data.get("license", [])
    for licence in [licences] if isinstance(licences, str) else licences:
        if licence not in LICENCES:
            problems.append(f"license: {licence!r} is no identifier of the Hub")
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        problems.append("tags: not a list of strings")
    if repo_type == "dataset":
        sizes = data.get("size_categories", [])
        if not set([sizes] if isinstance(sizes, str) else sizes) <= SIZES:
            problems.append(f"size_categories: {sizes}")
        names = [config["config_name"] for config in data.get("configs", [])]
        if len(names) != len(set(names)):
            problems.append(f"configs: a name occurs twice in {names}")
    if repo_type == "space":
        problems += [
            f"{name}: {data.get(name)!r}" for name in ("colorFrom", "colorTo") if data.get(name) not in COLOURS
        ]
        if data.get("sdk") not in ("gradio", "docker", "static"):
            problems.append(f"sdk: {data.get('sdk')!r}")
        if len(data.get("short_description", "")) > 60:
            problems.append("short_description: longer than 60 characters")
    return problems


class RefusedError(Exception):
    """An answer other than 200: status, what is wrong, the Hub's code for it, and what else the answer holds."""

    def __init__(self, status: int, message: str, code: str = "", **more: Any):
        super().__init__(message)
        self.status, self.code, self.content = status, code, {"error": message, **more}


class Hub:
    """The server and what it holds: `files(repo_id)` is `{path: bytes}`, `requests` the answered (method, path)."""

    def __init__(self):
        self.repos: dict[tuple[str, str], dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def files(self, repo_id: str, repo_type: str = "model") -> dict[str, bytes]:
        return self.repos[repo_type, repo_id]["files"]

    def repo(self, kind: str | None, repo_id: str) -> dict[str, Any]:
        """Of a plural (`datasets`), a prefix (`datasets/`) or nothing for a model."""
        key = (REPO_TYPES[(kind or "models").rstrip("/")], repo_id)
        if key not in self.repos:
            raise RefusedError(404, f"there is no {key[0]} {repo_id}", "RepoNotFound")
        return self.repos[key]

    def create(self, body: dict) -> dict:
        repo_type, repo_id = body.get("type", "model"), f"{body['organization']}/{body['name']}"
        if body["organization"] != OWNER:
            raise RefusedError(403, f"You don't have the rights to create a {repo_type} under {body['organization']}")
        if repo_type == "space" and not body.get("sdk"):
            raise RefusedError(400, "a Space needs an sdk")
        url = f"{self.url}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"
        if (repo_type, repo_id) in self.repos:
            raise RefusedError(409, "You already created this repo", url=url)
        private = body.get("visibility") == "private"
        self.repos[repo_type, repo_id] = {"files": {}, "commits": [], "sha": "0" * 40, "private": private}
        return {"url": url}

    def validate(self, body: dict) -> dict:
        if problems := card_problems(body["content"], body["repoType"]):
            raise RefusedError(400, "Invalid YAML", errors=[{"message": problem} for problem in problems])
        return {"errors": [], "warnings": []}

    def preupload(self, kind: str, repo_id: str, body: dict) -> dict:
        files = self.repo(kind, repo_id)["files"]
        answer = []
        for file in body["files"]:
            path, oid = file["path"], None
            if path in files:
                row = entry(path, files[path])
                oid = row["lfs"]["oid"] if "lfs" in row else row["oid"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answer}

    def lfs_batch(self, body: dict) -> dict:
        objects = []
        for item in body["objects"]:
            upload = {"upload": {"href": f"{self.storage_url}/lfs/{item['oid']}"}}
            objects.append(item if item["oid"] in self.objects else item | {"actions": upload})
        return {"transfer": "basic", "objects": objects}

    def commit(self, kind: str, repo_id: str, lines: list[dict]) -> dict:
        repo = self.repo(kind, repo_id)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repo["commits"].append(value["summary"])
            elif line["key"] == "file":
                repo["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo["files"][value["path"]] = self.objects[value["oid"]]
            else:
                raise RefusedError(400, f"unknown operation {line['key']}")
        digests = [(path, hashlib.sha1(data).hexdigest()) for path, data in sorted(repo["files"].items())]
        repo["sha"] = hashlib.sha1(repr((digests, repo["commits"])).encode()).hexdigest()
        return {"commitUrl": f"{self.url}/{repo_id}/commit/{repo['sha']}", "commitOid": repo["sha"]}

    def info(self, kind: str, repo_id: str) -> dict:
        repo = self.repo(kind, repo_id)
        siblings = [{"rfilename": path} for path in sorted(repo["files"])]
        return {"id": repo_id, "sha": repo["sha"], "private": repo["private"], "siblings": siblings, "tags": []}

    def tree(self, kind: str, repo_id: str, folder: str, recursive: bool) -> list[dict]:
        prefix = f"{folder}/" if folder else ""
        below = {path: data for path, data in self.repo(kind, repo_id)["files"].items() if path.startswith(prefix)}
        if folder and not below:
            raise RefusedError(404, f"there is no {folder}", "EntryNotFound")
        rows = [entry(path, data) for path, data in below.items() if recursive or "/" not in path[len(prefix) :]]
        if not recursive:
            folders = {prefix + path[len(prefix) :].split("/")[0] for path in below if "/" in path[len(prefix) :]}
            rows += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        return rows

    def paths_info(self, kind: str, repo_id: str, paths: list[str]) -> list[dict]:
        files = self.repo(kind, repo_id)["files"]
        folders = [path for path in paths if any(name.startswith(f"{path}/") for name in files)]
        rows = [entry(path, files[path]) for path in paths if path in files]
        return rows + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]


def entry(path: str, data: bytes) -> dict:
    """A file as the tree lists it."""
    row: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    row["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if path.endswith(LFS_SUFFIXES):
        row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return row


ROUTES: list[tuple[tuple[str, ...], str, bool, Callable]] = []  # methods, path, needs the token, what answers


class Handler(BaseHTTPRequestHandler):
    """Turns requests into calls of `Hub`."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self) -> None:
        url = urlsplit(self.path)
        path, body = unquote(url.path), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path))
        try:
            for methods, pattern, login, call in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods:
                    if login and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                        raise RefusedError(401, "Invalid username or password.")
                    return call(self, match, body, url.query)
            raise RefusedError(404, f"the stand-in does not know {self.command} {path}")
        except RefusedError as problem:
            content = json.dumps(problem.content).encode()
            self.send(content, status=problem.status, headers={"X-Error-Code": problem.code})

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 - the names that the base class looks for

    def send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, value: Any) -> None:
        self.send(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def send_file(self, data: bytes, headers: dict[str, str]) -> None:
        """The whole content, or the part that a `Range` asks for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            return self.send(data, headers={"Accept-Ranges": "bytes", **headers})
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        part = {"Content-Range": f"bytes {start}-{end}/{len(data)}", **headers}
        self.send(data[start : end + 1], status=206, headers=part)

    def resolve(self, kind: str | None, repo_id: str, path: str) -> None:
        repo = self.hub.repo(kind, repo_id)
        if path not in repo["files"]:
            raise RefusedError(404, f"there is no {path}", "EntryNotFound")
        row = entry(path, repo["files"][path])
        headers = {"X-Repo-Commit": repo["sha"], "ETag": f'"{row["oid"]}"'}
        if "lfs" not in row:
            return self.send_file(repo["files"][path], headers)
        oid = row["lfs"]["oid"]
        self.hub.objects[oid] = repo["files"][path]
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(row["size"])}
        self.send(b"", status=302, headers=headers | {"Location": f"{self.hub.storage_url}/lfs/{oid}"})


def route(methods: str, path: str, login: bool = False) -> Callable:
    """Registers a function of handler, match of the path, body and query."""

    def register(call: Callable) -> Callable:
        ROUTES.append((tuple(methods.split()), path, login, call))
        return call

    return register


@route("POST", "/api/validate-yaml")
def validate(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    handler.send_json(handler.hub.validate(json.loads(body)))


@route("POST", "/api/repos/create", login=True)
def create(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    handler.send_json(handler.hub.create(json.loads(body)))


@route("POST", f"{API}/preupload/main", login=True)
def preupload(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    handler.send_json(handler.hub.preupload(match[1], match[2], json.loads(body)))


@route("POST", rf"{FILES}\.git/info/lfs/objects/batch", login=True)
def lfs_batch(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    handler.send_json(handler.hub.lfs_batch(json.loads(body)))


@route("PUT", "/lfs/([0-9a-f]{64})")
def put_object(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    if hashlib.sha256(body).hexdigest() != match[1]:
        raise RefusedError(422, "the content has another hash")
    handler.hub.objects[match[1]] = body
    handler.send(b"")


@route("POST", f"{API}/commit/main", login=True)
def commit(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    lines = [json.loads(line) for line in body.splitlines()]
    handler.send_json(handler.hub.commit(match[1], match[2], lines))


@route("GET", rf"{API}(?:/revision/[\w.]+)?")
def info(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    handler.send_json(handler.hub.info(match[1], match[2]))


@route("GET", rf"{API}/tree/[\w.]+/?(.*)")
def tree(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    handler.send_json(handler.hub.tree(match[1], match[2], match[3], "recursive=true" in query.lower()))


@route("POST", rf"{API}/paths-info/[\w.]+")
def paths_info(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    handler.send_json(handler.hub.paths_info(match[1], match[2], parse_qs(body.decode())["paths"]))


@route("GET HEAD", rf"{FILES}/resolve/[\w.]+/(.+)")
def resolve(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    handler.resolve(match[1], match[2], match[3])


@route("GET HEAD", "/lfs/([0-9a-f]{64})")
def get_object(handler: Handler, match: re.Match, body: bytes, query: str) -> None:
    handler.send_file(handler.hub.objects[match[1]], {"ETag": f'"{match[1]}"'})
