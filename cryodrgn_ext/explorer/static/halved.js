// Large maps on half the grid, whose surfaces are drawn in an eighth of the time.

/**
 * Means of 2 x 2 x 2 voxels, in the same place.
 * @param {object} volume  of NGL; an odd last plane is left out
 */
export function halved(volume) {
  const { data, nx, ny } = volume;
  const [mx, my, mz] = [nx, ny, volume.nz].map((n) => Math.floor(n / 2));
  const means = new Float32Array(mx * my * mz);
  let at = 0;
  for (let z = 0; z < mz; z += 1) {
    for (let y = 0; y < my; y += 1) {
      let k = (2 * z * ny + 2 * y) * nx;
      for (let x = 0; x < mx; x += 1, k += 2, at += 1) {
        const [up, back] = [k + nx, k + nx * ny];
        means[at] = (data[k] + data[k + 1] + data[up] + data[up + 1]
          + data[back] + data[back + 1] + data[back + nx] + data[back + nx + 1]) / 8;
      }
    }
  }
  const found = new NGL.Volume(volume.name, volume.path, means, mx, my, mz);
  // A mean is that of the middle between two voxels.
  found.setMatrix(new NGL.Matrix4().copy(volume.matrix).multiply(new NGL.Matrix4().set(
    2, 0, 0, 0.5, 0, 2, 0, 0.5, 0, 0, 2, 0.5, 0, 0, 0, 1,
  )));
  return found;
}
