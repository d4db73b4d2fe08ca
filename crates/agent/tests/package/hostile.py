"""Makes a tar archive that nobody should unpack: hostile.py CASE, in a folder with the manifest and its signature."""
import io, os, sys, tarfile

out = io.BytesIO()
case = sys.argv[1]
FILES = {"payload/a": b"hello", "payload/d/b": b"#!/bin/sh\nexit 0\n"}
formats = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def main(form=tarfile.GNU_FORMAT, **kwargs):
    return tarfile.open(fileobj=out, mode="w", format=form, **kwargs)


def file(tar, name, content=b"evil", **fields):
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o755
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


def head(tar, signature=True):
    file(tar, "manifest.json", open("manifest.json", "rb").read())
    if signature:
        file(tar, "manifest.json.minisig", open("manifest.json.minisig", "rb").read())


def rest(tar, without=()):
    for name, content in FILES.items():
        if name not in without:
            file(tar, name, content)


def special(kind, name="payload/a", linkname="", **fields):
    with main() as tar:
        head(tar)
        file(tar, name, b"", type=kind, linkname=linkname, **fields)
        rest(tar, [name] if kind != tarfile.DIRTYPE else [])


def extra(name, form=tarfile.GNU_FORMAT, **fields):
    with main(form) as tar:
        head(tar)
        file(tar, name, **fields)
        rest(tar)


def mode(bits):
    with main() as tar:
        head(tar)
        file(tar, "payload/a", b"hello", mode=bits)
        rest(tar, ["payload/a"])


def content(text):
    with main() as tar:
        head(tar)
        file(tar, "payload/a", text)
        rest(tar, ["payload/a"])


def listed(*names):
    with main() as tar:
        for name in names:
            if name.startswith("payload/"):
                file(tar, name, FILES.get(name, b"evil"))
            else:
                path = name.removeprefix("./")
                file(tar, name, open(path, "rb").read() if os.path.exists(path) else b"evil")


def patched(offset, data):
    special(tarfile.DIRTYPE, "payload/d")
    whole = bytearray(out.getvalue())
    at = offset(whole)
    whole[at:at + len(data)] = data
    out.seek(0)
    out.write(whole)


M, S, A, B = "manifest.json", "manifest.json.minisig", "payload/a", "payload/d/b"
outside = os.path.abspath("outside")
cases = {
    "sound gnu": lambda: listed(M, S, A, B),
    "sound other order": lambda: listed(M, S, B, A),
    "sound with folders": lambda: special(tarfile.DIRTYPE, "payload/d"),
    "sound pax": lambda: extra("payload/" + "e" * 120, tarfile.PAX_FORMAT),
    "sound long gnu": lambda: extra("payload/" + "e" * 120),
    "dot dot": lambda: extra("payload/../../outside/evil"),
    "dot dot alone": lambda: extra("../outside/evil"),
    "absolute": lambda: extra(outside + "/evil"),
    "absolute pax": lambda: extra(outside + "/" + "e" * 120, tarfile.PAX_FORMAT),
    "absolute long": lambda: extra(outside + "/" + "e" * 120),
    "pax path": lambda: extra("payload/a2", tarfile.PAX_FORMAT, pax_headers={"path": "../outside/evil"}),
    "symlink": lambda: special(tarfile.SYMTYPE, linkname=outside + "/kept"),
    "symlink folder": lambda: special(tarfile.SYMTYPE, "payload/d", outside),
    "hardlink": lambda: special(tarfile.LNKTYPE, linkname=outside + "/kept"),
    "long symlink": lambda: special(tarfile.SYMTYPE, linkname=outside + "/" + "k" * 150),
    "character device": lambda: special(tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": lambda: special(tarfile.BLKTYPE, devmajor=8, devminor=0),
    "fifo": lambda: special(tarfile.FIFOTYPE),
    "contiguous": lambda: special(tarfile.CONTTYPE),
    "sparse": lambda: special(tarfile.GNUTYPE_SPARSE),
    "sparse pax": lambda: extra("payload/a2", tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.major": "1"}),
    "setuid": lambda: mode(0o4755),
    "setgid": lambda: mode(0o2755),
    "sticky": lambda: mode(0o1755),
    "longer": lambda: content(b"hello, hello"),
    "shorter": lambda: content(b"hell"),
    "other content": lambda: content(b"jello"),
    "twice": lambda: listed(M, S, A, A, B),
    "manifest twice": lambda: listed(M, S, A, B, M),
    "signature twice": lambda: listed(M, S, S, A, B),
    "missing": lambda: listed(M, S, A),
    "only the head": lambda: listed(M, S),
    "extra": lambda: listed(M, S, A, B, "payload/c"),
    "beside the payload": lambda: listed(M, S, A, B, "c"),
    "file as folder": lambda: listed(M, S, A, "payload/a/x", B),
    "folder as file": lambda: listed(M, S, A, "payload/d", B),
    "folder outside": lambda: special(tarfile.DIRTYPE, "other"),
    "folder upwards": lambda: special(tarfile.DIRTYPE, "payload/../../outside/new"),
    "unsigned": lambda: listed(M, A, B),
    "signature late": lambda: listed(M, A, S, B),
    "signature first": lambda: listed(S, M, A, B),
    "something between": lambda: listed(M, "note", S, A, B),
    "payload first": lambda: listed(A, M, S, B),
    "dot slash": lambda: listed("./" + M, "./" + S, A, B),
    "no UTF-8": lambda: extra("payload/\udcff"),
    "empty": lambda: listed(),
    "long extended header": lambda: extra("payload/c", tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 70000}),
    "bomb": lambda: bomb(),
    "padding": lambda: patched(lambda t: t.index(b"hello") + 100, b"x"),
    "a changed header": lambda: patched(lambda t: t.index(b"payload/d/b"), b"q"),
}


def bomb():
    """A header of 8 TiB, and as much behind it as there is patience for."""
    with main() as tar:
        head(tar)
    out.seek(-10240 if out.tell() % 10240 == 0 else 0, 2)
    whole = out.getvalue().rstrip(b"\0")
    whole += b"\0" * (-len(whole) % 512)
    info = tarfile.TarInfo("payload/a")
    info.size = 8 << 40
    out.seek(0)
    out.truncate()
    out.write(whole + info.tobuf(tarfile.GNU_FORMAT) + b"\0" * (1 << 20))


if case == "list":
    print("\n".join(cases))
else:
    cases[case]()
    sys.stdout.buffer.write(out.getvalue())
