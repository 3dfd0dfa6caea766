"""From an Airflow connection to Magic Hour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from magichour_provider.client.models import Account, CreatedJob, ImageToVideoRequest, VideoProject
from magichour_provider.client.pricing import (
    DEFAULT_MODEL,
    ModelRequest,
    default_resolution,
    estimate_credits,
)
from magichour_provider.client.sync import MagicHourClient, send_with_retries
from magichour_provider.exceptions import MagicHourError, NotFoundError, UndefinedConnectionError
from magichour_provider.hooks.connection import settings_from_connection, wtforms_behaviour, wtforms_fields
from magichour_provider.jobs.reference import DEFAULT_CONN_ID
from magichour_provider.storage.naming import DEFAULT_FILE_NAME

if TYPE_CHECKING:
    from magichour_provider.client.aio import AsyncMagicHourClient
    from magichour_provider.client.settings import ClientSettings
    from magichour_provider.jobs.request import IfExists

T = TypeVar("T")
_NO_SUCH_PROJECT = "connection-test"


class MagicHourHook(BaseHook):
    """Magic Hour for a task of your own: clients, and one method for each thing to do.

    :param magichour_conn_id: a connection of type `magichour`: password is the API key, host the base URL
        (default `https://api.magichour.ai`), extras as in `ConnectionExtras`.
    """

    conn_name_attr = "magichour_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "magichour"
    hook_name = "Magic Hour"

    def __init__(self, magichour_conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.magichour_conn_id = magichour_conn_id
        self._settings: ClientSettings | None = None
        self._client: MagicHourClient | None = None

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """The form's extra fields, for Airflow 3.0 and 3.1."""
        return wtforms_fields()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """What the form hides and renames, for Airflow 3.0 and 3.1."""
        return wtforms_behaviour()

    def get_conn(self) -> MagicHourClient:
        """Return the synchronous client, which sends each request once. The hook keeps it."""
        if self._client is None:
            self._client = MagicHourClient.from_settings(self._sync_settings())
        return self._client

    async def async_client(self) -> AsyncMagicHourClient:
        """Make an asynchronous client, which the caller closes; the connection is read without blocking."""
        from magichour_provider.client.aio import AsyncMagicHourClient

        return await AsyncMagicHourClient.from_settings(await self.read_settings())

    async def read_settings(self) -> ClientSettings:
        """Read the connection without blocking. Raises ConfigurationError where it cannot be used."""
        with _defined(self.magichour_conn_id):
            return settings_from_connection(await get_async_connection(self.magichour_conn_id))

    def test_connection(self) -> tuple[bool, str]:
        """Try the API key and say what it opens; spends nothing."""
        try:
            return True, self._describe_account()
        except MagicHourError as error:
            return False, str(error)

    def upload(self, image: str, image_conn_id: str | None = None) -> str:
        """Upload an image and return its `file_path`, good for seven days and for many jobs.

        What needs no upload (an https URL, an uploaded `file_path`) is returned as it is.
        """
        from magichour_provider.lineage import collect_upload
        from magichour_provider.storage.images import open_source
        from magichour_provider.storage.transfer import upload

        file_path = upload(self.get_conn(), open_source(image, image_conn_id))
        collect_upload(self, image)
        return file_path

    def create_image_to_video(self, image_file_path: str, end_seconds: float, **options: Any) -> CreatedJob:
        """Submit a job, without any check beforehand. Deducts credits.

        :param options: `end_image_file_path`, `prompt`, `model`, `resolution`, `audio`, `name`.
        """
        from magichour_provider.lineage import collect_submission

        request = ImageToVideoRequest(image_file_path=image_file_path, end_seconds=end_seconds, **options)
        job = self.get_conn().create_image_to_video(request)
        collect_submission(self, job.id)
        return job

    def get_video(self, project_id: str) -> VideoProject:
        """Look at a job."""
        return self._retried(lambda client: client.get_video(project_id))

    def delete_video(self, project_id: str) -> None:
        """Remove a clip for good: no cancel, no refund."""
        self._retried(lambda client: client.delete_video(project_id))

    def download(
        self,
        project_id: str,
        path: str,
        *,
        path_conn_id: str | None = None,
        if_exists: IfExists = "skip",
        file_name: str = DEFAULT_FILE_NAME,
        poster: bool = False,
        delete_remote: bool = False,
    ) -> dict[str, Any]:
        """Land the clip of a finished job; see `DownloadVideoOperator` for arguments and result."""
        from magichour_provider.lineage import collect_download
        from magichour_provider.storage.download_project import Delivery
        from magichour_provider.storage.locations import conn_id_of

        if poster:
            from magichour_provider.storage.pictures_extra import require_pictures

            require_pictures()
        delivery = Delivery(project_id, path, path_conn_id, if_exists, file_name)
        result = delivery.deliver(self.get_conn())
        collect_download(self, project_id, result)
        if poster:
            result = _with_posters(result, conn_id_of(path, path_conn_id))
        if delete_remote:
            self.delete_delivered(result, conn_id_of(path, path_conn_id))
        return result

    def delete_delivered(self, result: Mapping[str, Any], path_conn_id: str | None = None) -> None:
        """Remove at Magic Hour what `download` has landed, after every clip was read back and checked.

        Raises TransferError where one is not as it landed; nothing is removed then.
        """
        from magichour_provider.storage.transfer import check_landed

        project_id = str(result["project_id"])
        for clip in result["clips"]:
            check_landed(clip["path"], project_id, path_conn_id, size=clip["size"], sha256=clip["sha256"])
        try:
            self.delete_video(project_id)
        except NotFoundError:
            self.log.info("Project %s is not at Magic Hour any more.", project_id)
        else:
            self.log.info("Project %s is removed at Magic Hour; what has landed was read back.", project_id)

    def get_account(self) -> Account:
        """Read tier and spendable credits."""
        return self._retried(lambda client: client.get_account())

    def estimate_credits(
        self, model: str, end_seconds: float, resolution: str | None = None, *, audio: bool = False
    ) -> int | None:
        """Credits that a clip costs by the catalogue; None where the rate is not published."""
        if resolution is None:
            resolution = default_resolution(self.get_account().tier)
        return estimate_credits(ModelRequest(model or DEFAULT_MODEL, end_seconds, resolution, audio))

    def close(self) -> None:
        """Close the clients that the hook keeps."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _retried(self, call: Callable[[MagicHourClient], T]) -> T:
        client = self.get_conn()
        return send_with_retries(lambda: call(client), client.retry_policy)

    def _sync_settings(self) -> ClientSettings:
        if self._settings is None:
            with _defined(self.magichour_conn_id):
                self._settings = settings_from_connection(self.get_connection(self.magichour_conn_id))
        return self._settings

    def _describe_account(self) -> str:
        try:
            account = self.get_account()
        except NotFoundError:
            self._try_key()
            return "The API key is good. This API does not tell tier and credits."
        return f"The API key is good: tier {account.tier}, {account.credits} credits."

    def _try_key(self) -> None:
        """Tell a good key (404) from a bad one (401) where there is no account endpoint."""
        try:
            self.get_video(_NO_SUCH_PROJECT)
        except NotFoundError:
            return


def _with_posters(result: dict[str, Any], conn_id: str | None) -> dict[str, Any]:
    from magichour_provider.storage.posters import make_poster

    clips = [{**clip, "poster": make_poster(clip["path"], conn_id=conn_id)} for clip in result["clips"]]
    return {**clips[0], "clips": clips}


@contextmanager
def _defined(conn_id: str) -> Iterator[None]:
    try:
        yield
    except AirflowNotFoundException as error:
        raise UndefinedConnectionError(
            f"Connection {conn_id!r} is not defined.",
            remedy="Add it: type magichour, password the API key; trying again cannot help before that.",
        ) from error
