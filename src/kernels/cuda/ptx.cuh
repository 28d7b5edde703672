// The PTX instructions that kernels use, each wrapped once.
#pragma once

#include <cstdint>

namespace tq::cuda::ptx {

// D += A B of 16 x 32 unsigned bytes and 32 x 8 signed ones, exact in int32 (mma.m16n8k32). Lane
// 4 g + c holds of A rows g, g + 8, g, g + 8 at columns 4 c.. (a0, a1) and 16 + 4 c.. (a2, a3), of
// B the rows 4 c.. (b0) and 16 + 4 c.. (b1) of column g, of D columns 2 c, 2 c + 1 of rows g
// (d[0], d[1]) and g + 8 (d[2], d[3]). Since sm_80.
__device__ __forceinline__ void MmaU8S8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// D += A B of 16 x 16 and 16 x 8 halves in float (mma.m16n8k16). Lane 4 g + c holds of A rows g,
// g + 8, g, g + 8 at columns 2 c, 2 c + 1 (a0, a1) and 8 more (a2, a3), of B rows 2 c, 2 c + 1 (b0)
// and 8 more (b1) of column g, of D what MmaU8S8 says. Since sm_80.
__device__ __forceinline__ void MmaF16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                       uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four matrices of 8 x 8 halves from shared memory: lane i gives the address of row i % 8 of matrix
// i / 8, and gets columns 2 c, 2 c + 1 of row g of each; kTransposed: rows 2 c, 2 c + 1 of column
// g.
template <bool kTransposed>
__device__ __forceinline__ void LoadMatrices(uint32_t (&r)[4], const void* shared) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
}

// 2^x to 22 bits; 0 where that is below the normal numbers.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Copies 16 bytes to shared memory behind the thread's back, past L1. Since sm_80.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(address), "l"(global)
               : "memory");
}
// The same, or zeros where it is not `present`; then `global` is not read.
__device__ __forceinline__ void CopyAsync16OrZero(void* shared, const void* global, bool present) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(present ? 16 : 0)
               : "memory");
}
// Ends a group of copies; waits until at most kPending groups of this thread are under way.
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Programmatic dependent launch (sm_90): waits until the kernel before has finished and its
// writes are seen; nothing where there is none.
__device__ __forceinline__ void WaitForPreviousKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel start its part that does not depend on this one.
__device__ __forceinline__ void StartNextKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Thread block clusters (sm_90); calls where they are not end the kernel.
__device__ __forceinline__ uint32_t ClusterRank() {
  uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#else
  __trap();
#endif
  return rank;
}
// Stores a word where `shared` lies in the shared memory of thread block `rank`.
__device__ __forceinline__ void StoreInCluster(uint32_t* shared, uint32_t rank, uint32_t value) {
#if __CUDA_ARCH__ >= 900
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile(
      "{ .reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "st.shared::cluster.u32 [remote], %2; }" ::"r"(address),
      "r"(rank), "r"(value)
      : "memory");
#else
  __trap();
#endif
}
// A barrier of all threads of a cluster in two halves; what was stored before is seen after. At a
// kernel's start nothing was.
__device__ __forceinline__ void ArriveAtClusterFirst() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void ArriveAtCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void WaitForCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __trap();
#endif
}

}  // namespace tq::cuda::ptx
