"""Unknown names answered with the nearest right one; addresses of buckets answered with how to mount them."""

import difflib

from spectral_jax._errors import ConfigError


def nearest(name, allowed):
  """Returns ' Did you mean ...?' or an empty string."""
  close = difflib.get_close_matches(str(name), [str(a) for a in allowed], n=1, cutoff=0.5)
  return f" Did you mean {close[0]!r}?" if close else ""


def check_name(key, value, allowed):
  """Raises ConfigError naming the config key, what came, the nearest right one and all that are allowed."""
  if value not in allowed:
    raise ConfigError(
        f"config.{key}={value!r} is not known.{nearest(value, allowed)} "
        f"It must be one of {', '.join(map(repr, sorted(allowed)))}.")


def check_mounted(key, where, *, written=False):
  """Raises ConfigError if a path is a bucket's address: files are read and written through the file system alone.

  A folder that is `written` needs locks and renames that are all or nothing, which mounted buckets lack.
  """
  scheme, separator, rest = str(where or "").partition("://")
  if not separator:
    return
  bucket, _, folder = rest.partition("/")
  mount = f"gcsfuse {bucket} ~/{bucket}" if scheme == "gs" else f"rclone mount {scheme}:{bucket} ~/{bucket}"
  if written:
    remedy = ("Give a folder on a disk or on a file system that all machines share (NFS, Lustre, Filestore), and copy "
              "it to the bucket afterward. Not a mounted bucket: a run locks and renames files")
  else:
    remedy = f"Mount it, for example with `mkdir -p ~/{bucket} && {mount}`, and give {key}=~/{bucket}/{folder}"
  raise ConfigError(f"{key}={str(where)!r} is not on this machine's file system, which alone is read and written. "
                    + remedy)
