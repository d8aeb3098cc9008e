"""A small HTTP front over the ClickHouse engine, for tests.

The engine is the real one (chdb: ClickHouse as a library, in this process); only the HTTP interface
in front of it is ours, and only as much of it as the clients in our tests use: queries with bound
parameters and settings, inserts in any format, LZ4 both ways, exception codes.

It serves one request at a time, since the engine has a single session. There are no users, no
`system.query_log` and no buffered inserts. Listens on 127.0.0.1 only.

    python3 chserver.py [--port PORT] [--data DIR]

prints its URL as the first line once it answers. Port 0 (the default) picks a free one; without
--data the tables are gone when it ends.
"""

import argparse
import email
import email.policy
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import lz4.block
import lz4.frame
from chdb.session import Session

# Query parameters that speak to the HTTP interface; every other one is a setting of the query.
INTERFACE_PARAMETERS = {
    "client_protocol_version", "compress", "database", "decompress", "default_format", "password",
    "query", "query_id", "quota_key", "readonly", "role", "session_id", "session_timeout", "user",
    "wait_end_of_query",
}
# Codes UNKNOWN_TABLE and UNKNOWN_DATABASE, which the real server answers with 404.
NOT_FOUND_CODES = {"60", "81"}
SYNTAX_ERROR_CODES = {"47", "62"}

INSERT = re.compile(
    rb"\s*INSERT\s+INTO\s+(?P<into>.+?)\s+(?:SETTINGS\s+(?P<settings>.+?)\s+)?FORMAT\s+(?P<format>\w+)[ \t]*(?:\r?\n)?",
    re.IGNORECASE | re.DOTALL,
)
FORMAT_AT_END = re.compile(r"\sFORMAT\s+(?P<format>\w+)\s*;?\s*$", re.IGNORECASE)
EXCEPTION_CODE = re.compile(r"Code: (\d+)")


class Engine:
    """The one session, and what a request asks of it."""

    def __init__(self, data_dir):
        self.session = Session(data_dir)
        self.turn = threading.Lock()

    def run(self, statement, database, settings, parameters, default_format):
        """The answer's bytes and their format."""
        with self.turn:
            self.session.query(f"USE {quoted_name(database)}")
            insert = INSERT.match(statement)
            if insert:
                return self.insert(insert, statement[insert.end():], settings), default_format
            return self.query(statement.decode(), settings, parameters, default_format)

    def insert(self, insert, rows, settings):
        clauses = [insert["settings"].decode()] if insert["settings"] else []
        clauses += [f"{name} = {quoted_text(value)}" for name, value in settings.items()]
        statement = "INSERT INTO " + insert["into"].decode()
        if clauses:
            statement += " SETTINGS " + ", ".join(clauses)
        # Not as text: rows in a binary format are not valid UTF-8.
        stream = self.session.send_insert(statement, insert["format"].decode())
        stream.append(rows)
        stream.finish()
        return b""

    def query(self, text, settings, parameters, default_format):
        at_end = FORMAT_AT_END.search(text)
        answer_format = at_end["format"] if at_end else default_format
        body = text[:at_end.start()] if at_end else text
        for name, value in settings.items():
            self.session.query(f"SET {name} = {quoted_text(value)}")
        try:
            answer = self.session.query(body, answer_format, params=parameters or None)
            return answer.bytes() or b"", answer_format
        finally:
            for name in settings:  # the session outlives the request
                self.session.query(f"SET {name} = DEFAULT")


def quoted_name(name):
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def quoted_text(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def native_blocks(data):
    """Undoes ClickHouse's block compression: checksum (16 bytes), method (1), size of method, sizes
    and data (4), size when whole (4), data."""
    whole = bytearray()
    at = 0
    while at < len(data):
        method = data[at + 16]
        size = int.from_bytes(data[at + 17:at + 21], "little")
        whole_size = int.from_bytes(data[at + 21:at + 25], "little")
        packed = data[at + 25:at + 16 + size]
        if method == 0x82:
            whole += lz4.block.decompress(packed, uncompressed_size=whole_size)
        elif method == 0x02:
            whole += packed
        else:
            raise ValueError(f"compression method {method:#x} is not supported")
        at += 16 + size
    return bytes(whole)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer goes out as head and body; Nagle would hold the second back.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass  # one line a request would drown the tests' own output

    def do_GET(self):
        self.do_POST()

    def do_POST(self):
        url = urlsplit(self.path)
        data = self.read_body()
        if data is None:
            self.close_connection = True  # the client went away in the middle: nothing to do
            return
        if url.path == "/ping":
            self.answer(200, b"Ok.\n")
            return
        fields = dict(parse_qsl(url.query, keep_blank_values=True))
        try:
            data = self.unpack(data, fields)
            query = fields.get("query", "").encode()
            body, body_format = self.server.engine.run(
                statement=query + b"\n" + data if query and data else query or data,
                database=fields.get("database") or "default",
                settings={
                    name: value for name, value in fields.items()
                    if name not in INTERFACE_PARAMETERS and not name.startswith("param_")
                },
                parameters={
                    name.removeprefix("param_"): value for name, value in fields.items()
                    if name.startswith("param_")
                },
                default_format=fields.get("default_format", "TabSeparated"),
            )
        except Exception as error:  # the engine raises plain RuntimeError for everything
            self.answer_error(str(error))
        else:
            self.answer(200, body, {"X-ClickHouse-Format": body_format})

    def unpack(self, data, fields):
        """Takes compression and forms off the body; form fields join the URL's."""
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("multipart/form-data"):
            head = f"Content-Type: {content_type}\r\n\r\n".encode()
            form = email.message_from_bytes(head + data, policy=email.policy.HTTP)
            for part in form.iter_parts():
                name = part.get_param("name", header="content-disposition")
                fields[name] = part.get_payload(decode=True).decode()
            return b""
        if self.headers.get("Content-Encoding") == "lz4":
            data = lz4.frame.decompress(data)
        if fields.get("decompress") == "1":
            data = native_blocks(data)
        return data

    def read_body(self):
        """The whole body, or None when the connection ended before it did."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            return body if len(body) == size else None
        body = bytearray()
        while True:
            line = self.rfile.readline()
            if not line.strip():
                return None
            size = int(line.split(b";")[0], 16)
            chunk = self.rfile.read(size)
            if len(chunk) != size or not self.rfile.readline():
                return None
            if size == 0:
                return bytes(body)
            body += chunk

    def answer_error(self, text):
        found = EXCEPTION_CODE.search(text)
        code = found[1] if found else "1002"
        status = 404 if code in NOT_FOUND_CODES else 400 if code in SYNTAX_ERROR_CODES else 500
        self.answer(status, text.encode(), {"X-ClickHouse-Exception-Code": code})

    def answer(self, status, body, headers=None):
        headers = dict(headers or {})
        if status == 200 and body and "lz4" in self.headers.get("Accept-Encoding", ""):
            body = lz4.frame.compress(body)
            headers["Content-Encoding"] = "lz4"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is part of the tests


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--data", default=None)
    chosen = arguments.parse_args()
    server = Server(("127.0.0.1", chosen.port), Handler)
    server.engine = Engine(chosen.data)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
