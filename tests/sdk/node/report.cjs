// What a client saw: one line of JSON a case. The suite judges it; these programs only tell.

/** Reports what `call` answers, or what it raised. */
async function report(name, call) {
  let seen;
  try {
    seen = await call();
  } catch (error) {
    seen = raised(error);
  }
  console.log(JSON.stringify({ case: name, ...seen }));
}

/** An error as a caller can tell it from others: its classes, nearest first, and its words. */
function raised(error) {
  const classes = [];
  for (let kind = error?.constructor; kind?.name; kind = Object.getPrototypeOf(kind)) {
    classes.push(kind.name);
  }
  const status = error?.status ?? error?.statusCode;
  return { raised: classes, status: Number.isInteger(status) ? status : null, message: String(error?.message) };
}

/** The texts of a stream up to its end or its failure. `pieces` is called to begin it. */
async function drained(pieces) {
  const seen = { pieces: [] };
  try {
    for await (const piece of pieces()) {
      if (piece) seen.pieces.push(piece);
    }
  } catch (error) {
    Object.assign(seen, raised(error));
  }
  return seen;
}

module.exports = { report, drained };
