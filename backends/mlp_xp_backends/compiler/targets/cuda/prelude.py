"""The source that all kernels share, in CUDA C++: functions that it lacks, and folds over the threads of a block."""

THREADS = 256
"""The number of threads in a block."""

PRELUDE = """
template <class T> __device__ T maximum(T a, T b) { return a > b || a != a ? a : b; }
template <class T> __device__ T minimum(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ T sign(T a) { return a != a ? a : (T)((a > 0) - (a < 0)); }
template <class T> __device__ T logaddexp(T a, T b) {
    const T high = a > b ? a : b, low = a > b ? b : a;
    return a == b ? a + (T)0.69314718055994530942 : a != a || b != b ? a + b : high + log1p(exp(low - high));
}

// An element and its index, or -1 for no element. Of equal elements the first one wins; NaN wins over numbers.
template <class T> struct Place { T x; int k; };
template <class P> __device__ P place(P a, P b, bool a_first, bool b_first) {
    if (a.k < 0 || b.k < 0) return a.k < 0 ? b : a;
    a_first = a_first && b.x == b.x || a.x != a.x && b.x == b.x;
    b_first = b_first && a.x == a.x || b.x != b.x && a.x == a.x;
    return a_first || !b_first && a.k < b.k ? a : b;
}

struct Sum { template <class T> static __device__ T join(T a, T b) { return a + b; } };
struct Prod { template <class T> static __device__ T join(T a, T b) { return a * b; } };
struct Max { template <class T> static __device__ T join(T a, T b) { return maximum(a, b); } };
struct Min { template <class T> static __device__ T join(T a, T b) { return minimum(a, b); } };
struct Any { template <class T> static __device__ T join(T a, T b) { return a || b; } };
struct All { template <class T> static __device__ T join(T a, T b) { return a && b; } };
struct Argmax { template <class P> static __device__ P join(P a, P b) { return place(a, b, a.x > b.x, b.x > a.x); } };
struct Argmin { template <class P> static __device__ P join(P a, P b) { return place(a, b, a.x < b.x, b.x < a.x); } };

// The fold, as a tree, of the values of `lanes` threads whose numbers differ by `stride`; all threads must call it.
template <class F, class T> __device__ T folded(T mine, int lane, int lanes, int stride) {
    __shared__ T shared[THREADS];
    T* here = shared + threadIdx.x;
    *here = mine;
    __syncthreads();
    for (int h = lanes / 2; h; h /= 2) {
        if (lane < h) *here = F::join(*here, here[h * stride]);
        __syncthreads();
    }
    mine = here[-lane * stride];
    __syncthreads();
    return mine;
}

// Whether this block is the last of `blocks` to call this function; it then sees everything that the others wrote.
__device__ bool comes_last(long long* ticket, int blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd((unsigned int*)ticket, 1u) == blocks - 1;
        if (last) *ticket = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}
""".replace("THREADS", str(THREADS))
