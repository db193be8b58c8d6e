"""An object landed: how each cloud and server says so, and what becomes of the message.

A message is read (s3, gcs, cloudevents, webhook: pure functions from bytes to results), taken (intake: landed, ignored
or dead-lettered) and only then acknowledged (sqs, pubsub, or HTTP's answer). Nothing here is trusted: an event says no
more than where to look, and losing one loses nothing, for the sweeper looks too.
"""
