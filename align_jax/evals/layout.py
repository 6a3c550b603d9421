"""Embeddings in the plane, for a map that a person looks at."""

import importlib

import numpy as np

FEW = 100  # points among which neighbourhoods say little; UMAP takes seconds even for these
NEIGHBOURS = 15


def plane(embeddings: np.ndarray, *, umap: bool = True) -> tuple[np.ndarray, str]:
    """(f32 [n, 2], how they were found) of embeddings f32 [n, D]; the same for the same input.

    By UMAP (McInnes et al. 2018) on the cosine where umap-learn is installed, and wanted, and there are enough points;
    else by PCA. UMAP keeps neighbours together, its distances between groups mean little; PCA is a plain projection.
    """
    if umap and len(embeddings) >= FEW:
        try:
            library = importlib.import_module("umap")  # here: it is an extra, and takes seconds to import
        except ModuleNotFoundError:
            return _pca(embeddings)
        mapper = library.UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=0, n_jobs=1)
        how = f"UMAP of the cosine, {NEIGHBOURS} neighbours: who is near counts, the distance between groups does not"
        return np.asarray(mapper.fit_transform(embeddings), np.float32), how
    return _pca(embeddings)


def _pca(embeddings: np.ndarray) -> tuple[np.ndarray, str]:
    """The first two principal components, each with the sign that makes its largest loading positive."""
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    left, scales, loadings = np.linalg.svd(centred, full_matrices=False)
    total = float((scales**2).sum())
    if total < 1e-12 * max(1.0, float((embeddings.astype(np.float64) ** 2).sum())):
        return np.zeros((len(embeddings), 2), np.float32), "PCA of points that are all alike"
    largest = np.abs(loadings).argmax(axis=1)
    signs = np.sign(loadings[np.arange(len(loadings)), largest])
    points = np.zeros((len(embeddings), 2))
    points[:, : len(scales)] = (left * scales * signs)[:, :2]
    share = float((scales[:2] ** 2).sum()) / total
    return points.astype(np.float32), f"PCA: the first two principal components, {share:.0%} of the variance"
