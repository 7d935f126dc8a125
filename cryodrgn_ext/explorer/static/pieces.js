// Particles in pieces of the plot, so that a sample of those in the view can be drawn without looking at the others.

const PIECES = 256; // of equal numbers of particles
const BITS = 10; // of each coordinate, for their order along a curve that keeps neighbours together

/** Bits of a number, each followed by an empty one. */
function spread(number) {
  let found = 0;
  for (let bit = 0; bit < BITS; bit += 1) found |= ((number >> bit) & 1) << (2 * bit);
  return found;
}

/** Place along Morton's curve of a point in the square from -1 to 1. */
const [ALONG, EDGE] = [Uint32Array.from({ length: 1 << BITS }, (_, k) => spread(k)), (1 << BITS) - 1];
function morton(x, y) {
  const [i, j] = [x, y].map((one) => Math.min(EDGE, Math.max(0, Math.floor(((one + 1) / 2) * (EDGE + 1)))));
  return ALONG[i] | (ALONG[j] << 1);
}

/**
 * Order particles piece by piece; within a piece they stay in the order that they have.
 * @param {Uint32Array} shown  particles, in random order
 * @param {(particle: number) => number} x  place of a particle in the plot, from -1 to 1
 * @param {(particle: number) => number} y
 * @returns {{order: Uint32Array, pieces: {begin: number, end: number, x: number[], y: number[]}[]}}
 */
export function inPieces(shown, x, y) {
  const n = shown.length;
  const keys = new Uint32Array(n);
  const begins = new Uint32Array((1 << (2 * BITS)) + 1);
  for (let k = 0; k < n; k += 1) {
    keys[k] = morton(x(shown[k]), y(shown[k]));
    begins[keys[k] + 1] += 1;
  }
  for (let key = 1; key < begins.length; key += 1) begins[key] += begins[key - 1];
  const along = new Uint32Array(n); // numbers k, along the curve
  for (let k = 0; k < n; k += 1) along[begins[keys[k]]++] = k;
  const pieces = [];
  const order = new Uint32Array(n);
  const count = Math.min(PIECES, n);
  for (let piece = 0; piece < count; piece += 1) {
    const [begin, end] = [piece, piece + 1].map((one) => Math.round((one * n) / count));
    const members = along.subarray(begin, end).sort(); // at random, as they came
    const box = { begin, end, x: [Infinity, -Infinity], y: [Infinity, -Infinity] };
    members.forEach((k, at) => {
      order[begin + at] = shown[k];
      for (const [side, value] of [[box.x, x(shown[k])], [box.y, y(shown[k])]]) {
        side[0] = Math.min(side[0], value);
        side[1] = Math.max(side[1], value);
      }
    });
    pieces.push(box);
  }
  return { order, pieces };
}

/** The pieces of which a sorted list of places holds some, with their begins and ends in that list. */
export function piecesOf(places, pieces) {
  let begin = 0;
  return pieces.map((piece) => {
    let end = begin;
    while (end < places.length && places[end] < piece.end) end += 1;
    const found = { ...piece, begin, end };
    begin = end;
    return found;
  }).filter((piece) => piece.end > piece.begin);
}

/**
 * A sample of about `most` particles of the pieces that a view meets, as [begin, count] in each.
 * @param {{x: number[], y: number[]}} view  its ends in the plot
 */
export function sample(pieces, view, most) {
  const seen = pieces.filter((piece) => ["x", "y"].every((axis) => piece[axis][1] >= view[axis][0] && piece[axis][0] <= view[axis][1]));
  const total = seen.reduce((sum, piece) => sum + piece.end - piece.begin, 0);
  const share = Math.min(1, most / (total || 1));
  let [passed, given] = [0, 0];
  return seen.flatMap(({ begin, end }) => {
    passed += end - begin;
    const count = Math.round(passed * share) - given;
    given += count;
    return count ? [[begin, count]] : [];
  });
}
