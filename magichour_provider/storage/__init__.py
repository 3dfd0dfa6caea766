"""Reading images, saving videos and making pictures of them, on disks and in object stores.

`locations` parses addresses, `targets` names videos, `images` reads and uploads, `transfer` fetches,
`download` saves the videos of a job, `publish` writes atomically, `mp4` checks videos, `posters` and
`contact_sheets` draw.
"""
