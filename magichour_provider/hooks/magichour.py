"""`MagicHourHook`: Magic Hour through an Airflow connection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from magichour_provider.airflow_internals import get_connection_async
from magichour_provider.client.models import Account, CreatedJob, ImageToVideoRequest, VideoProject
from magichour_provider.client.pricing import (
    DEFAULT_MODEL,
    ModelRequest,
    default_resolution,
    estimate_credits,
)
from magichour_provider.client.settings import ClientSettings
from magichour_provider.client.sync import MagicHourClient, send_with_retries
from magichour_provider.exceptions import (
    InvalidRequestError,
    MagicHourError,
    NotFoundError,
    UndefinedConnectionError,
)
from magichour_provider.get_provider_info import UI_FIELD_BEHAVIOUR
from magichour_provider.hooks.connection import settings_from_connection
from magichour_provider.jobs.arguments import parse_number
from magichour_provider.jobs.reference import DEFAULT_CONN_ID, JobReference
from magichour_provider.polling.webhooks import Mailbox, mailbox_key
from magichour_provider.storage.locations import given_text
from magichour_provider.version_compat import AirflowNotFoundException, BaseHook

if TYPE_CHECKING:
    from magichour_provider.client.aio import AsyncMagicHourClient
    from magichour_provider.storage.locations import PathArgument
    from magichour_provider.storage.targets import IfExists

T = TypeVar("T")


class MagicHourHook(BaseHook):
    """Magic Hour for your own tasks: clients, and a method for each operation.

    :param magichour_conn_id: a connection of type `magichour`: password is the API key, host the base URL
        (default `https://api.magichour.ai`), extras as the fields of `ClientSettings`.
    :param sleep: waits so many seconds between two attempts of a request.
    """

    conn_name_attr = "magichour_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "magichour"
    hook_name = "Magic Hour"

    def __init__(
        self,
        magichour_conn_id: str = DEFAULT_CONN_ID,
        *,
        sleep: Callable[[float], object] = time.sleep,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.magichour_conn_id = given_text(magichour_conn_id) or DEFAULT_CONN_ID
        self._sleep = sleep
        self._client: MagicHourClient | None = None

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """The form's extra fields, for Airflow 3.0 and 3.1; none if wtforms is not installed."""
        try:
            from wtforms import BooleanField, FloatField, IntegerField, StringField
        except ImportError:
            return {}
        kinds = {
            "integer": IntegerField,
            "number": FloatField,
            "string": StringField,
            "boolean": BooleanField,
        }
        return {
            name: kinds[field["schema"]["type"][0]](
                field["label"], description=field["description"], default=field["schema"].get("default")
            )
            for name, field in ClientSettings.form_fields().items()
        }

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """What the form hides and renames, for Airflow 3.0 and 3.1; without wtforms it shows `extra`."""
        behaviour: dict[str, Any] = {
            key.replace("-", "_"): value for key, value in UI_FIELD_BEHAVIOUR.items()
        }
        if not cls.get_connection_form_widgets():
            behaviour["hidden_fields"] = [name for name in behaviour["hidden_fields"] if name != "extra"]
        return behaviour

    def get_conn(self) -> MagicHourClient:
        """Return the synchronous client, which sends each request once. The hook keeps it."""
        if self._client is None:
            with _defined(self.magichour_conn_id):
                connection = self.get_connection(self.magichour_conn_id)
            self._client = MagicHourClient.from_settings(settings_from_connection(connection))
        return self._client

    async def get_async_conn(self) -> AsyncMagicHourClient:
        """Return a new asynchronous client, which the caller closes. Does not block."""
        from magichour_provider.client.aio import AsyncMagicHourClient

        return await AsyncMagicHourClient.from_settings(await self.get_settings_async())

    async def get_settings_async(self) -> ClientSettings:
        """Read the connection without blocking. Raises ConfigurationError if it cannot be used."""
        with _defined(self.magichour_conn_id):
            return settings_from_connection(await get_connection_async(self.magichour_conn_id))

    def test_connection(self) -> tuple[bool, str]:
        """Check the API key and the host, at no cost."""
        try:
            try:
                account = self.get_account()
            except NotFoundError:  # an API without this endpoint, or not the API at all
                self._with_retries(lambda client: client.create_upload_targets(["png"]))
                return True, "The API key is good. This API does not tell tier and credits."
        except MagicHourError as error:
            return False, str(error).replace(", then clear the task.", ".")
        return True, f"The API key is good: tier {account.tier}, {account.credits} credits.{self._webhooks()}"

    def _webhooks(self) -> str:
        """A sentence for the connection's test about its webhooks; empty if it has no webhook secret."""
        if not settings_from_connection(self.get_connection(self.magichour_conn_id)).webhook_secret:
            return ""
        from airflow.sdk import Variable

        try:
            mailbox = Mailbox.from_text(Variable.get(mailbox_key(self.magichour_conn_id), default=None))
        except Exception as error:
            return f" Whether webhooks were received cannot be read ({type(error).__name__})."
        if mailbox.received_at is None:
            return " No webhook was received yet."
        at = datetime.fromtimestamp(mailbox.received_at, timezone.utc).isoformat(timespec="seconds")
        return f" The last webhook was received at {at}."

    def upload(self, image: PathArgument, image_conn_id: str | None = None) -> str:
        """Upload an image and return its `file_path`, which is valid for seven days and for many jobs.

        What needs no upload (an https URL, an uploaded `file_path`) is returned as it is.
        """
        from magichour_provider.lineage import collect_upload
        from magichour_provider.storage.images import open_image, upload_image

        file_path = upload_image(self.get_conn(), open_image(image, image_conn_id))
        collect_upload(self, image)
        return file_path

    def create_image_to_video(self, image_file_path: str, end_seconds: float, **options: Any) -> CreatedJob:
        """Submit a job, without any check beforehand. Deducts credits.

        :param options: `end_image_file_path`, `prompt`, `model`, `resolution`, `audio`, `name`.
        """
        from magichour_provider.lineage import collect_submission

        try:
            request = ImageToVideoRequest(image_file_path=image_file_path, end_seconds=end_seconds, **options)
        except ValidationError as error:
            wrong = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())
            raise InvalidRequestError(f"The request is not valid: {wrong}.") from error
        job = self.get_conn().create_image_to_video(request)
        collect_submission(self, job.id)
        return job

    def get_video(self, project_id: str | Mapping[str, Any]) -> VideoProject:
        """Get the state of a job, by its id or by what an operator returned."""
        job_id = JobReference.from_value(project_id).project_id
        return self._with_retries(lambda client: client.get_video(job_id))

    def delete_video(self, project_id: str | Mapping[str, Any]) -> None:
        """Delete a video at Magic Hour: no cancel, no refund."""
        job_id = JobReference.from_value(project_id).project_id
        self._with_retries(lambda client: client.delete_video(job_id))

    def download(
        self,
        project_id: str | Mapping[str, Any],
        path: PathArgument,
        *,
        path_conn_id: str | None = None,
        if_exists: IfExists = "skip",
        file_name: str = "{project_id}.mp4",
        poster: bool = False,
        delete_remote: bool = False,
    ) -> dict[str, Any]:
        """Save the videos of a finished job. Arguments as those of `DownloadVideoOperator`.

        :return: the fields of the first video, and `videos`: those of each.
        """
        from magichour_provider.lineage import collect_download
        from magichour_provider.polling.outcome import require_videos
        from magichour_provider.storage.download import download_videos
        from magichour_provider.storage.locations import connection_id
        from magichour_provider.storage.posters import make_poster, require_pictures
        from magichour_provider.storage.targets import require_shared_target

        if poster:
            require_pictures()
        if delete_remote:
            require_shared_target(path, path_conn_id)
        job_id = JobReference.from_value(project_id).project_id
        result = download_videos(
            self.get_conn(),
            lambda: require_videos(self.get_video(job_id)),
            job_id,
            path,
            path_conn_id=path_conn_id,
            if_exists=if_exists,
            file_name=file_name,
            sleep=self._sleep,
        )
        collect_download(self, job_id, result)
        conn_id = connection_id(path, path_conn_id)
        if poster:
            videos = [
                {**video, "poster": make_poster(video["path"], conn_id=conn_id)} for video in result["videos"]
            ]
            result = {**videos[0], "videos": videos}
        if delete_remote:
            self.delete_after_verify(result, conn_id)
        return result

    def delete_after_verify(self, result: Mapping[str, Any], path_conn_id: str | None = None) -> None:
        """Delete at Magic Hour what `download` has saved, after every video was read back and checked.

        Raises TransferError if one has changed; nothing is deleted then.
        """
        from magichour_provider.storage.download import verify_download

        if not isinstance(result, Mapping) or not {"project_id", "videos"} <= result.keys():
            raise InvalidRequestError("result must be what `download` has returned. Nothing was deleted.")
        verify_download(result, path_conn_id)
        project_id = str(result["project_id"])
        try:
            self.delete_video(project_id)
            self.log.info(
                "Job %s is deleted at Magic Hour. Its saved videos were checked before.", project_id
            )
        except NotFoundError:
            self.log.info("Job %s does not exist at Magic Hour any more.", project_id)

    def get_account(self) -> Account:
        """Read tier and spendable credits."""
        return self._with_retries(lambda client: client.get_account())

    def estimate_credits(
        self, model: str, end_seconds: float, resolution: str | None = None, *, audio: bool = False
    ) -> int | None:
        """Credits of a video by the list of models; None if the rate is not published."""
        length = parse_number("end_seconds", end_seconds)
        if length is None:
            raise InvalidRequestError("end_seconds is missing: give the video's length in seconds.")
        if resolution is None:
            resolution = default_resolution(self.get_account().tier)
        return estimate_credits(ModelRequest(model or DEFAULT_MODEL, length, resolution, audio))

    def close(self) -> None:
        """Close the client that the hook keeps."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _with_retries(self, call: Callable[[MagicHourClient], T]) -> T:
        client = self.get_conn()
        return send_with_retries(lambda: call(client), client.retry_policy, self._sleep)


@contextmanager
def _defined(conn_id: str) -> Iterator[None]:
    try:
        yield
    except AirflowNotFoundException as error:
        variable = f"AIRFLOW_CONN_{conn_id.upper()}"
        what = f"Connection {conn_id!r} is not defined."
        remedy = "Add it: type magichour, password the API key. A retry cannot help before that."
        if os.environ.get(variable):  # Airflow says the same of a value that it cannot parse
            what = f"Connection {conn_id!r} is not defined: Airflow cannot parse the value of {variable}."
            remedy = "Write it as JSON, or percent-encode the key in the URI: / is %2F, and # is %23."
        raise UndefinedConnectionError(what, remedy=remedy) from error
