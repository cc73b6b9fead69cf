"""Enough of the hub's API, on loopback, for huggingface_hub to create, commit, list and download."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

SMALL = 1000  # bytes: what is larger is stored as LFS


class Repository:
    """commits: id -> path -> bytes. branches, tags: name -> commit."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.commit("main", {".gitattributes": b"*.onnx filter=lfs\n"})

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def find(self, revision: str) -> str | None:
        commit = self.branches.get(revision) or self.tags.get(revision)
        return commit or (revision if revision in self.commits else None)


class Hub(BaseHTTPRequestHandler):
    """repositories: by id. lfs: sha256 -> bytes. seen, fault: as in `tests.registries.oci_server.Registry`."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, Repository]
    lfs: dict[str, bytes]
    seen: list[tuple[str, str, str | None]]
    fault: Any = None
    elsewhere = ""  # `host:port` that large files are redirected to

    def handle_any(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise NotImplementedError("chunks")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path, self.headers.get("Authorization")))
        if type(self).fault and type(self).fault(self):
            return None
        path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        match self.command, path:
            case "POST", ["api", "repos", "create"]:
                return self.create(json.loads(self.body))
            case "POST", ["api", "validate-yaml"]:
                return self.say({"errors": [], "warnings": []})
            case "PUT", ["lfs", oid]:
                self.lfs[oid] = self.body
                return self.say({})
            case "GET" | "HEAD", ["lfs", oid]:
                return self.give(self.lfs[oid], {"ETag": f'"{oid}"'})
            case "POST", [owner, name, "info", "lfs", "objects", "batch"]:
                return self.plan_uploads(json.loads(self.body))
            case _, ["api", "models", owner, name, *rest] if f"{owner}/{name}" in self.repositories:
                return self.answer_model(self.repositories[f"{owner}/{name}"], f"{owner}/{name}", rest)
            case "GET" | "HEAD", [owner, name, "resolve", commit, *file] if f"{owner}/{name}" in self.repositories:
                return self.resolve(self.repositories[f"{owner}/{name}"].commits[commit]["/".join(file)], commit)
        return self.say({}, 404, {"X-Error-Code": "RepoNotFound"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        known = name in self.repositories
        if not known:
            self.repositories[name] = Repository(asked.get("private", False))
        self.say({"url": f"http://{self.headers['Host']}/{name}"}, 409 if known else 200)

    def answer_model(self, repository: Repository, name: str, rest: list[str]) -> None:
        match self.command, rest:
            case "GET", ["refs"]:
                refs = {"branches": repository.branches, "tags": repository.tags}
                found = {
                    kind: [{"name": ref, "ref": ref, "targetCommit": commit} for ref, commit in names.items()]
                    for kind, names in refs.items()
                }
                return self.say({**found, "converts": []})
            case "POST", ["branch", branch]:
                repository.branches.setdefault(branch, repository.branches["main"])
                return self.say({})
            case "POST", ["preupload", _]:
                asked = json.loads(self.body)["files"]
                modes = [{**file, "uploadMode": "lfs" if file["size"] > SMALL else "regular"} for file in asked]
                return self.say({"files": [{**file, "shouldIgnore": False} for file in modes]})
            case "POST", ["commit", branch]:
                return self.commit(repository, branch)
        commit = repository.find(rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return self.say({}, 404, {"X-Error-Code": "RevisionNotFound"})
        if rest[:1] == ["tree"]:
            return self.say([self.describe(path, data) for path, data in repository.commits[commit].items()])
        return self.say({"_id": "1", "id": name, "sha": commit, "siblings": []})

    def describe(self, path: str, data: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(data).hexdigest()
        entry = {"type": "file", "path": path, "size": len(data), "oid": oid}
        sha256 = hashlib.sha256(data).hexdigest()
        large = {"lfs": {"oid": sha256, "size": len(data), "pointerSize": 130}}
        return {**entry, **large} if len(data) > SMALL else entry

    def commit(self, repository: Repository, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, repository.branches[branch]):
            return self.say({"error": "conflict"}, 412)
        files = dict(repository.commits[repository.branches[branch]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.lfs[value["oid"]]
        commit = repository.commit(branch, files)
        return self.say(
            {
                "commitUrl": f"https://huggingface.co/org/bert/commit/{commit}",
                "commitOid": commit,
                "success": True,
            }
        )

    def plan_uploads(self, asked: dict[str, Any]) -> None:
        host = f"http://{self.headers['Host']}"
        objects = [
            {
                **file,
                **({} if file["oid"] in self.lfs else {"actions": {"upload": {"href": f"{host}/lfs/{file['oid']}"}}}),
            }
            for file in asked["objects"]
        ]
        self.say({"transfer": "basic", "objects": objects})

    def resolve(self, data: bytes, commit: str) -> None:
        oid = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{oid}"'}
        if len(data) > SMALL:
            self.lfs[oid] = data
            linked = {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(data))}
            return self.say({}, 302, {**headers, **linked, "Location": f"http://{self.elsewhere}/lfs/{oid}"})
        return self.give(data, headers)

    def say(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.give(json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}, status)

    def give(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""
