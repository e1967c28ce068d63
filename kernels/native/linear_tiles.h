// Quantised linears on the matrix unit (AMX): the bits of vnni_tile, since sums inside a group are exact there, too, and what
// follows is the same. Included by linear_body.h for AVX-512; a Format is one of vnni_tile's.
//
// A tile of sums is sixteen tokens by one block of sixteen outputs, for one group of inputs. A block's codes are unpacked once
// for all tokens of a pass; while the matrix unit multiplies one group, vectors scale and add up the sums of the one before.

// Shape of each tile register. The compiler must not think that it knows what memory they read or write.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

static inline void set_shapes(const TileShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory"); }
static inline void free_tiles() { asm volatile("tilerelease" ::: "memory"); }

template <int T>
static inline void load_tile(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}

template <int T>
static inline void store_tile(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}

// SUMS = activations (signed) times weights (signed).
template <int SUMS, int X, int WEIGHTS>
static inline void multiply_tile() {
    asm volatile("tilezero %%tmm%c0\n\ttdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(X), "i"(WEIGHTS));
}

// A group's codes, signed, in the order of the tile of weights.
template <class Format>
static inline void unpack(const uint8_t* group, int8_t* out) {
    const __m512i above = _mm512_set1_epi8(static_cast<char>(Format::kAbove));
    for (int i = 0; i < kGroup / 8; ++i) {
        __m512i near, far;
        Format::codes(group, i, near, far);
        _mm512_store_si512(out + i * 64, _mm512_sub_epi8(near, above));
        _mm512_store_si512(out + (i + 4) * 64, _mm512_sub_epi8(far, above));
    }
}

template <int SUMS>
struct TileSums {
    alignas(64) int32_t of[SUMS][kTileTokens][kOutputs];  // the second of the last inputs, where a Format has two sums
};

constexpr int64_t kAheadGroups = 2;  // groups that the matrix unit does between the vectors' turns

// Registers: sums 0, activations 2, weights 4; those of a tile with fewer tokens: sums 6, activations 7.
template <class Format, bool FEWER>
static inline void multiply_group(const TokenTile& x, const int8_t* codes, TileSums<Format::kSums>& sums) {
    constexpr int X = FEWER ? 7 : 2;
    for (int s = 0; s < Format::kSums; ++s) {
        load_tile<X>(x.codes[0] + s * 16, kGroup);
        load_tile<4>(codes + s * 256, 64);
        multiply_tile<FEWER ? 6 : 0, X, 4>();
        store_tile<FEWER ? 6 : 0>(sums.of[s], 64);
    }
}

// ROWS tokens of a tile, of which `count` exist, times one block. `next` is where the block that comes after it is, or null.
template <class Format, bool FEWER, int ROWS>
static void multiply_tile_rows(const Linear& l, const TokenTile* x, const int8_t* codes, int64_t token, int64_t count,
                               int64_t block, const uint8_t* next) {
    F totals[ROWS] = {};
    TileSums<Format::kSums> sums[2 * kAheadGroups];
    for (int r = 0; r < ROWS; ++r) __builtin_prefetch(l.out + (token + (r < count ? r : 0)) * l.stride + block * kOutputs, 1);
    for (int64_t g = 0; g < kAheadGroups && g < l.groups; ++g) multiply_group<Format, FEWER>(x[g], codes + g * 512, sums[g]);
    for (int64_t g = 0; g < l.groups; ++g) {
        if (g % kAheadGroups == 0)
            for (int64_t ahead = g + kAheadGroups; ahead < g + 2 * kAheadGroups && ahead < l.groups; ++ahead)
                multiply_group<Format, FEWER>(x[ahead], codes + ahead * 512, sums[ahead % (2 * kAheadGroups)]);
        if (next != nullptr) fetch<Format::kBytes>(next + g * Format::kBytes);
        const auto& of = sums[g % (2 * kAheadGroups)];
        const typename Format::Scales scales(l, block, g);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
            __m512i dots[Format::kSums];
            for (int s = 0; s < Format::kSums; ++s) dots[s] = _mm512_load_si512(of.of[s][r]);
            const struct {
                float sum, scale;
            } token_group{x[g].sum[r], x[g].scale[r]};
            totals[r] += scales.apply(dots, token_group);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
        if (r < count) {
            const F total = totals[r];
            finish(l, token + r, block, &total);
        }
}

template <class Format>
static void multiply_tiles(const Linear& l, int64_t begin, int64_t end) {
    const int64_t groups = l.groups, whole = l.num_tokens / kTileTokens, fewer = l.num_tokens % kTileTokens;
    const int64_t tiles = whole + (fewer > 0), per_pass = kPassBytes / (groups * static_cast<int64_t>(sizeof(TokenTile))) + 1;
    constexpr int64_t inputs = kGroup / Format::kSums;
    TileShapes shapes;
    const auto shape = [&](int tile, int64_t rows, int64_t row_bytes) {
        shapes.rows[tile] = static_cast<uint8_t>(rows);
        shapes.row_bytes[tile] = static_cast<uint16_t>(rows > 0 ? row_bytes : 0);
    };
    shape(0, kTileTokens, 64);
    shape(2, kTileTokens, inputs);
    shape(4, inputs / 4, 64);
    shape(6, fewer, 64);
    shape(7, fewer, inputs);
    auto* codes = static_cast<int8_t*>(scratch(9, groups * kGroup * kOutputs));
    set_shapes(shapes);
    for (int64_t from = 0; from < tiles; from += per_pass) {
        const int64_t to = from + per_pass < tiles ? from + per_pass : tiles;
        for (int64_t block = begin; block < end; ++block) {
            const uint8_t* weights = l.weights + block * groups * Format::kBytes;
            for (int64_t g = 0; g < groups; ++g) unpack<Format>(weights + g * Format::kBytes, codes + g * kGroup * kOutputs);
            for (int64_t tile = from; tile < to; ++tile) {
                const TokenTile* x = l.tiles + tile * groups;
                const int64_t token = tile * kTileTokens;
                const uint8_t* next = tile == from ? weights + groups * Format::kBytes : nullptr;
                if (tile < whole)
                    multiply_tile_rows<Format, false, 16>(l, x, codes, token, 16, block, next);
                else if (fewer > 12)
                    multiply_tile_rows<Format, true, 16>(l, x, codes, token, fewer, block, next);
                else if (fewer > 8)
                    multiply_tile_rows<Format, true, 12>(l, x, codes, token, fewer, block, next);
                else if (fewer > 4)
                    multiply_tile_rows<Format, true, 8>(l, x, codes, token, fewer, block, next);
                else
                    multiply_tile_rows<Format, true, 4>(l, x, codes, token, fewer, block, next);
            }
        }
    }
    free_tiles();
}
