// tus-js-client as a program would use it: node tus.mjs ENDPOINT FILE TYPE [OPTIONS], the key in AIRLOCK_API_KEY.
// The options are tus-js-client's, as JSON; with uploadLengthDeferred the bytes come from standard input.
// Says a line of JSON for each answer, and ends with the upload's address and its document.
import { createReadStream } from 'node:fs'
import { basename } from 'node:path'
import * as tus from 'tus-js-client'

const [endpoint, path, filetype, json = '{}'] = process.argv.slice(2)
const options = JSON.parse(json)
const say = value => console.log(JSON.stringify(value))

const upload = new tus.Upload(options.uploadLengthDeferred ? process.stdin : createReadStream(path), {
  endpoint,
  headers: { Authorization: `Bearer ${process.env.AIRLOCK_API_KEY}` },
  metadata: { filename: basename(path), filetype },
  ...options,
  onAfterResponse(request, response) {
    say({
      url: response.getHeader('Location') ?? upload.url,
      method: request.getMethod(),
      status: response.getStatus(),
      offset: Number(response.getHeader('Upload-Offset') ?? -1),
      document: response.getHeader('Airlock-Document'),
    })
  },
  onError(error) {
    console.error(String(error))
    process.exitCode = 1
  },
  onSuccess({ lastResponse }) {
    say({ url: upload.url, document: lastResponse.getHeader('Airlock-Document') })
  },
})
upload.start()
