"""A server of our own to ask."""

import json
import re
import subprocess
import urllib.request


class Server:
    """Runs until it is stopped; `flags` are those of `postsort serve`."""

    def __init__(self, binary, models_dir, *flags):
        command = [binary, "serve", "--models-dir", models_dir, "--listen", "127.0.0.1:0", "--watch-seconds", "0"]
        self.process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"127\.0\.0\.1:(\d+)", line):
                self.url = f"http://127.0.0.1:{found[1]}"
                break

    def text(self, path, body=None):
        request = urllib.request.Request(
            self.url + path, body and json.dumps(body).encode(), {"content-type": "application/json"})
        return urllib.request.urlopen(request, timeout=600).read().decode()

    def ask(self, path, body=None):
        return json.loads(self.text(path, body))

    def stop(self):
        self.process.terminate()
        self.process.communicate()


def spam_score(result):
    """Of one of the `results` of an answer."""
    return next(label["score"] for label in result["labels"] if label["label"] == "spam")
