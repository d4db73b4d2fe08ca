"""RAUC as far as its D-Bus goes, for python-dbusmock: slots A and B, and what `mood` in its folder says of the next installation."""

import os

import dbus
from gi.repository import GLib

BUS_NAME = "de.pengutronix.rauc"
MAIN_OBJ = "/"
MAIN_IFACE = "de.pengutronix.rauc.Installer"
SYSTEM_BUS = True


def read(folder, name, default):
    try:
        with open(os.path.join(folder, name)) as file:
            return file.read().strip()
    except FileNotFoundError:
        return default


def load(mock, parameters):
    mock.folder = str(parameters["folder"])
    mock.AddProperties(
        MAIN_IFACE,
        {
            "Operation": read(mock.folder, "operation", "idle"),
            "LastError": "",
            "Progress": progress(0, ""),
            "BootSlot": read(mock.folder, "booted", "A"),
            "Compatible": "board",
        },
    )


def progress(percent, message):
    return dbus.Struct((dbus.Int32(percent), message, dbus.Int32(1)), signature="isi")


def update(mock, properties):
    # Not UpdateProperties(): it cannot have structures.
    mock.props[MAIN_IFACE].update(properties)


def note(mock, line):
    with open(os.path.join(mock.folder, "calls"), "a") as file:
        file.write(line + "\n")


def end(mock, code, error):
    update(mock, {"Operation": "idle", "LastError": error, "Progress": progress(100, "")})
    mock.EmitSignal(MAIN_IFACE, "Completed", "i", [code])
    return False


@dbus.service.method(MAIN_IFACE, in_signature="sa{sv}", out_signature="")
def InstallBundle(self, source, _args):
    with open(source) as file:
        note(self, "install " + file.read())
    mood = read(self.folder, "mood", "good")
    update(self, {"Operation": "installing", "Progress": progress(40, "Copying")})
    if mood == "refused":
        update(self, {"Operation": "idle"})
        raise dbus.exceptions.DBusException("already processing a different method", name="org.gtk.GDBus.UnmappedGError.Quark._g_2dio_2derror_2dquark.Code30")
    if mood == "good":
        GLib.timeout_add(2500, end, self, 0, "")
    elif mood == "bad":
        GLib.timeout_add(200, end, self, 1, "Compatible mismatch: Expected 'board' but bundle manifest has 'other'")
    elif mood == "gone":
        GLib.timeout_add(200, os._exit, 1)


@dbus.service.method(MAIN_IFACE, in_signature="ss", out_signature="ss")
def Mark(self, state, slot):
    if read(self.folder, "mood", "") == "unmarked" and state == "good":
        raise dbus.exceptions.DBusException("no boot loader", name=MAIN_IFACE + ".Error")
    note(self, "mark %s %s" % (state, slot))
    return ("rootfs.0", "marked")


@dbus.service.method(MAIN_IFACE, in_signature="", out_signature="a(sa{sv})")
def GetSlotStatus(self):
    booted = read(self.folder, "booted", "A")
    slot = lambda name, boot: (name, {"class": "rootfs", "bootname": boot, "state": "booted" if booted == boot else "inactive", "boot-status": "good", "bundle.version": "7"})
    return dbus.Array([slot("rootfs.0", "A"), slot("rootfs.1", "B")], signature="(sa{sv})")
