// Bodies of ceiling.cpp, compiled for each instruction set.

// Reads count cache lines; the sum goes where the compiler cannot see it.
static void read_lines(const uint8_t* data, int64_t count) {
    U sums[4] = {};
    for (int64_t i = 0; i < count; ++i)
        for (int j = 0; j < 64 / (4 * W); ++j) sums[(i + j) % 4] += load<U>(data + i * kLine + j * 4 * W);
    const U sum = sums[0] + sums[1] + sums[2] + sums[3];
    volatile uint32_t sink = sum[0];
    (void)sink;
}

#if PL_ISA == 2

// Multiply-adds of one turn: eight chains, twice an instruction's latency, of 64 each.
constexpr int64_t kDots = 8 * 64;

static void dot_chains(int64_t count) {
    const __m512i x = _mm512_set1_epi8(1);
    __m512i a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{};
    for (int64_t i = 0; i < count; ++i)  // in one piece, so that the compiler can neither leave it out nor spill it
        asm volatile(
            "vpdpbusd %8, %8, %0\n\tvpdpbusd %8, %8, %1\n\tvpdpbusd %8, %8, %2\n\tvpdpbusd %8, %8, %3\n\t"
            "vpdpbusd %8, %8, %4\n\tvpdpbusd %8, %8, %5\n\tvpdpbusd %8, %8, %6\n\tvpdpbusd %8, %8, %7"
            : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h)
            : "v"(x));
}

#elif PL_ISA == 1

// Multiply-adds of one turn: ten chains of 32 each, products of bytes summed in 16 bits.
constexpr int64_t kDots = 10 * 32;

static void dot_chains(int64_t count) {
    const __m256i x = _mm256_set1_epi8(1);
    __m256i sums[10] = {};
    for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 10
        for (__m256i& sum : sums) {
            __m256i pairs;
            asm volatile("vpmaddubsw %2, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(pairs) : "x"(x));
        }
}

#else

constexpr int64_t kDots = 0;  // no such instruction

static void dot_chains(int64_t) {}

#endif
