// tus-js-client, as its own readme has it: run by tests/regtest/uploads.rs.
import { createReadStream, statSync } from 'node:fs';
import { Upload } from 'tus-js-client';

const file = process.env.TUS_FILE;
const upload = new Upload(createReadStream(file), {
	endpoint: process.env.TUS_ENDPOINT,
	headers: { Authorization: `Bearer ${process.env.TUS_KEY}` },
	uploadSize: statSync(file).size,
	retryDelays: [0, 1000, 3000, 5000],
	metadata: { filename: 'film.mp4', filetype: 'video/mp4', msat_per_second: '2000' },
	onError: (error) => {
		console.error(error);
		process.exit(1);
	},
	onSuccess: () => console.log('done', upload.url),
});
upload.start();
