"""The message types of a bag: the definitions it stores, else the installed ones. A missing one costs no other."""

from collections.abc import Iterable

from rosbags.interfaces import Connection, MessageDefinitionFormat, Nodetype
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from grids_data.bag import cdr

_HEADER = "std_msgs/msg/Header"


def types_of(reader: Reader) -> Typestore:
    """Jazzy's types, those others that the bag itself defines, and installed ones that it uses without a definition."""
    store = get_typestore(Stores.ROS2_JAZZY)
    undefined = [c.msgtype for c in reader.connections if c.msgtype not in store.types and not _register(store, c)]
    for name in undefined:
        _register_installed(store, name)
    return store


def _register(store: Typestore, connection: Connection) -> bool:
    """Add the connection's own definition; whether it has a usable one."""
    text, name = connection.msgdef.data, connection.msgtype
    if not text.strip():
        return False
    idl = connection.msgdef.format == MessageDefinitionFormat.IDL
    try:
        found = get_types_from_idl(text) if idl else get_types_from_msg(text, name)
        store.register({key: fields for key, fields in found.items() if key not in store.types})
    except (TypesysError, ValueError, LookupError, TypeError):
        return False
    return name in store.types


def _register_installed(store: Typestore, name: str) -> None:
    """Add `name` and what it is made of, where it is a type of grids_msgs (Humble stores no definitions)."""
    installed = cdr.typestore()
    wanted, found = [name], {}
    while wanted:
        kind = wanted.pop()
        if kind in found or kind in store.types or kind not in installed.fielddefs:
            continue
        found[kind] = installed.fielddefs[kind]
        wanted += _parts(found[kind][1])
    if found:
        store.register(found)


def _parts(fields: Iterable) -> list[str]:
    """Names of the message types among `fields`, those of arrays and sequences included."""
    names = []
    for _, descriptor in fields:
        while descriptor[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE):
            descriptor = descriptor[1][0]  # noqa: PLW2901 - down to the element
        if descriptor[0] == Nodetype.NAME:
            names.append(descriptor[1])
    return names


def begins_with_header(store: Typestore, name: str) -> bool:
    """Whether the first field of a message of this type is a std_msgs/Header, by its definition."""
    if name not in store.fielddefs:
        return False
    fields = store.fielddefs[name][1]
    return bool(fields) and fields[0][1] == (Nodetype.NAME, _HEADER)
