// Compiles the file named by PL_BODY once for each instruction set, each time in a namespace of its own with the lanes of
// that set (lanes.h). Include it inside namespace pl, after every other header. One build then serves all machines.

#define PL_ISA 0
namespace portable {
#include "lanes.h"
#include PL_BODY
}
#undef PL_ISA

#if PL_X86
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define PL_ISA 1
namespace avx2 {
#include "lanes.h"
#include PL_BODY
}
#undef PL_ISA
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
#define PL_ISA 2
namespace avx512 {
#include "lanes.h"
#include PL_BODY
}
#undef PL_ISA
#pragma GCC pop_options
#endif
