"""What each kind of problem means and what to do about it; served under /problems/."""

from __future__ import annotations

from collections.abc import Mapping

EXPLANATIONS: Mapping[str, str] = {
    "internal-error": "Something went wrong that the service has no name for. It was logged under the correlation id.",
    "malformed-request": "The request breaks the rules of its own format. `detail` says where.",
    "digest-mismatch": "A Content-Digest, Repr-Digest or Digest header names other bytes than those that arrived: they "
    "changed on the way, or the digest was computed over something else. For a form the header covers the whole form. "
    "Nothing was kept.",
    "no-file": "A form arrived without a file. A part is a file only if its Content-Disposition has a filename.",
    "empty-file": "A file without a single byte has nothing to check. Of a form with an empty file nothing is kept, so "
    "that it can be sent again as a whole; `part_index` counts the form's parts from 0.",
    "unauthorized": "Send `Authorization: Bearer` and an API key that is valid here.",
    "forbidden": "The API key lacks the scope that this needs, or a signed URL was changed or is over.",
    "not-appendable": "The upload is made of others, which have all the bytes: nothing can be added to it.",
    "not-found": "Nothing is there, or it belongs to somebody else: the answer is the same.",
    "method-not-allowed": "The address exists, but does not take this method; the Allow header lists those it takes.",
    "invalid-parameters": "A parameter has a value that it cannot have; `errors` lists each.",
    "unsupported-content": "Files are taken as they are: without Content-Encoding, and in a form without "
    "Content-Transfer-Encoding. Bytes of a tus upload come as application/offset+octet-stream.",
    "conflict": "The document's state does not allow this. Look at the document; it may have moved on meanwhile.",
    "not-available": "Only an AVAILABLE document can be downloaded. `state` says where this one is and `reason` why; "
    "while it is on its way, its event stream tells when it arrives.",
    "object-exists": "Objects are made once and never replaced.",
    "lease-lost": "Another worker has taken the document over. Nothing is lost.",
    "precondition-failed": "A condition in the request's headers does not hold.",
    "range-not-satisfiable": "The Range header asks for bytes beyond the end; Content-Range says how many there are.",
    "offset-mismatch": "The bytes were sent for another place than where the upload stands. `offset` says where it "
    "does: ask for it (HEAD) and go on from there. Nothing that was acknowledged is lost.",
    "upload-incomplete": "Not everything has arrived that was announced; `missing` names what has not. Send it, and "
    "complete the upload again.",
    "upload-gone": "The upload was ended by its sender, or was not finished before it expired. Begin a new one.",
    "tus-version": "A request to a tus upload names the version of the protocol that it speaks: Tus-Resumable: 1.0.0. "
    "Tus-Version lists those that are spoken here.",
    "chunk-mismatch": "The bytes of this request are not those that Upload-Checksum names. All of them were discarded, "
    "and the upload stands where it stood: send them again.",
    "upload-locked": "Another request is still sending bytes to this upload. Wait a moment, ask for its offset, go on.",
    "type-not-allowed": "The declared media type or the file name's suffix belongs to a type that the policy does not "
    "take: `GET /v1/policy` shows those it does. It was refused before anything was sent.",
    "no-such-way": "The store behind this service, or the size of this file, does not allow the way in that was asked "
    "for; `methods` lists those that it does. `/v1/uploads/tus` takes any file on any store.",
    "quota-exceeded": "This tenant has as many uploads or bytes open or stored as its quota allows; `limit` says "
    "which. Finish or delete some, or ask for more.",
    "too-large": "A limit of the policy was passed; `limit` names it and its value, `GET /v1/policy` shows all. "
    "Nothing was kept.",
    "platform-limit": "The platform that this service runs on takes no larger request, whatever the policy allows. "
    "Send the file straight to the bucket: `POST /v1/uploads` answers with what to do; `limit` names the bytes.",
    "stalled": "Nothing was received for a while in the middle of an upload. Of a tus upload all that came is kept: "
    "ask for its offset. Of any other nothing was kept; send it again.",
    "head-too-large": "The request line and the headers together are larger than any that this service needs.",
    "head-too-slow": "The headers of a request did not arrive in time.",
    "idempotency-conflict": "An Idempotency-Key stands for one request. This one was used for other content; take a "
    "new key for each new upload.",
    "too-many-requests": "Wait for as long as Retry-After says.",
    "misconfigured": "An operator has to mend the configuration; the logs say what.",
    "store-error": "The object store answered with an error. Nothing was acknowledged that was not stored.",
    "object-not-found": "The object, or the version of it that a URL names, is gone.",
    "checksum-mismatch": "The store holds other bytes than were sent. They were removed; send them again.",
    "store-unavailable": "The object store cannot be reached now. Nothing was kept that was not acknowledged; send it "
    "again.",
    "step-error": "A step of the pipeline failed, and will be tried again.",
    "step-refused": "A step of the pipeline failed in a way that trying again does not mend.",
    "unavailable": "A part of the service cannot be reached now.",
    "ledger-unavailable": "The database cannot be reached now. Send an upload again with the same Idempotency-Key: if "
    "the first one was recorded after all, its answer comes back.",
    "queue-unavailable": "The queue cannot be reached now. What was accepted waits and is not lost.",
    "draining": "This process was told to end and starts nothing new; another one, or the next, takes the work over.",
    "engine-unavailable": "A scanner cannot be reached or is not fit to judge. What was accepted waits.",
}
