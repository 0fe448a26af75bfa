"""What only the platform knows: the project and the region, asked of the metadata server."""

from http.client import HTTPConnection, HTTPException
from typing import Final

from safedefer.errors import ConfigurationError

_HOST: Final = "metadata.google.internal"
_SECONDS: Final = 3.0
_MAX_BYTES: Final = 1_024
_HTTP_OK: Final = 200


def read_project_id() -> str:
    """The project this process runs in.

    Raises:
        ConfigurationError: The metadata server did not say.
    """
    return _read("project/project-id", "PROJECT")


def read_region() -> str:
    """The region this process runs in, such as `europe-west1`.

    Raises:
        ConfigurationError: The metadata server did not say.
    """
    # The value is a path: projects/NUMBER/regions/REGION.
    return _read("instance/region", "LOCATION").rpartition("/")[2]


def _read(path: str, setting: str) -> str:
    connection = HTTPConnection(_HOST, timeout=_SECONDS)
    try:
        connection.request("GET", f"/computeMetadata/v1/{path}", headers={"Metadata-Flavor": "Google"})
        response = connection.getresponse()
        text = response.read(_MAX_BYTES).decode("ascii")
        if response.status != _HTTP_OK or response.getheader("Metadata-Flavor") != "Google":
            raise ConfigurationError(f"the metadata server did not give {path}; set SAFEDEFER[{setting!r}]")
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the metadata server could not be asked ({type(error).__name__}); set SAFEDEFER[{setting!r}]"
        ) from None
    finally:
        connection.close()
    return text.strip()
