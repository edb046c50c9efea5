"""Serves `/spin/MS` and `/rest/MS`, each in three nested functions, and the same by way of a generator, a method and a callback of C: `/spin/MS/by`. `/spin/MS/late` begins to answer before."""

import functools
import http.server
import sys
import time


def inner(ms, rests):
    if rests:
        time.sleep(ms / 1000)
        return 0
    end = time.thread_time() + ms / 1000
    total = 0
    while time.thread_time() < end:
        for i in range(2000):
            total = (total * 31 + i) % 1000003
    return total


def middle(ms, rests):
    return inner(ms, rests) + 1


def outer(ms, rests):
    return middle(ms, rests) + 1


class Shop:
    def steps(self, ms, rests):
        yield inner(ms, rests)

    def total(self, ms, rests):
        return sum(self.steps(ms, rests))


def by_callback(ms, rests):
    # `reduce` is a function of C: it has the interpreter begin anew.
    return functools.reduce(lambda total, n: total + Shop().total(n, rests), [ms], 0)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        _, what, ms, *how = self.path.split("/")
        run = by_callback if how == ["by"] else outer
        if how != ["late"]:
            answer = b"%010d" % run(int(ms), what == "rest")
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        if how == ["late"]:
            answer = b"%010d" % run(int(ms), what == "rest")
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print("port", server.server_address[1], flush=True)
server.serve_forever()
