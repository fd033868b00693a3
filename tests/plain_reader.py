#!/usr/bin/env python3
"""Reads a file in the plain form: a JSON manifest under its name, chunks under NAME_chunk_N. Knows nothing of reelfs.
plain_reader.py folder DIRECTORY NAME | redis HOST:PORT/DATABASE/PREFIX NAME | http URL NAME    (the bytes go to stdout)"""
import json
import os
import socket
import sys
import urllib.parse
import urllib.request

def folder(directory):
    return lambda key: open(os.path.join(directory, key), "rb").read()

def redis(place):
    address, database, prefix = place.split("/", 2)
    host, port = address.split(":")
    server = socket.create_connection((host, int(port))).makefile("rwb")

    def ask(*words):
        server.write(b"*%d\r\n" % len(words))
        for word in words:
            server.write(b"$%d\r\n%s\r\n" % (len(word), word))
        server.flush()
        line = server.readline()
        if line[:1] != b"$":
            return line
        return server.read(int(line[1:]) + 2)[:-2] if int(line[1:]) >= 0 else None

    ask(b"SELECT", database.encode())
    return lambda key: ask(b"GET", f"{prefix}/{key}".encode())

def http(url):
    return lambda key: urllib.request.urlopen(url + "/" + urllib.parse.quote(key)).read()

def read(get, name):
    manifest = json.loads(get(name))
    sizes = manifest["actualChunkSizes"]
    assert manifest["chunkCount"] == len(sizes) and manifest["totalSize"] == sum(sizes)
    assert all(size == manifest["standardChunkSize"] for size in sizes[:-1])
    print(manifest["originalContentType"], file=sys.stderr)
    for n, size in enumerate(sizes):
        chunk = get(f"{name}_chunk_{n}")
        assert len(chunk) == size, f"chunk {n}: {len(chunk)} bytes, not {size}"
        yield chunk

kind, place, name = sys.argv[1:]
for chunk in read({"folder": folder, "redis": redis, "http": http}[kind](place), name):
    sys.stdout.buffer.write(chunk)
