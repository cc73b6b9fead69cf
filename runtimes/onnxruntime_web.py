"""ONNX Runtime for browsers: which version, and the files of its package that compute in WebAssembly."""

from yizhi.storage.npm import NpmPackage

ONNXRUNTIME_WEB = NpmPackage(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
# The library, and what it loads from beside itself.
LIBRARY = "ort.wasm.min.mjs"
FILES = tuple(f"dist/{name}" for name in (LIBRARY, "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"))
