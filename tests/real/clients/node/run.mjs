// Shows one claim: `run.mjs FILE CLAIM`, where a claim is a function that the file exports.
//
// The environment says where the gateway is (GATEWAY) and where the client is installed (OPENAI_NODE).

const [file, claim] = process.argv.slice(2);
const claims = await import(`./${file}.mjs`);
await claims[claim]();
// A connection that is kept is no reason to stay.
process.exit(0);
