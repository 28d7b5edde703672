// bench_codec: squared error of every trellis code on an i.i.d. Gaussian source, beside
// the Shannon limit and the design's row, and the speed of the encoder per instruction
// set. `--search` looks for the best scale of every code (the table of BestScale).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/random.h"
#include "codec/trellis_encoder.h"

namespace tq {
namespace {

using trellis::Code;

struct Row {
  Code code;
  // The squared error to hold at this rate and V. Up to 4 bits the design's; above, where single
  // values beyond the largest decoded one count, the mean of four sources of 1 Mi values.
  double design;
};
constexpr Row kRows[] = {{{4, 2}, .526},   {{4, 3}, .379},    {{2, 2}, .269},     {{2, 3}, .138},
                         {{2, 4}, .0711},  {{2, 5}, .0368},   {{1, 3}, .0174},    {{1, 4}, .0045},
                         {{1, 5}, .00116}, {{1, 6}, .000305}, {{1, 8}, .0000221}, {{1, 2}, .0687}};

struct Options {
  size_t values = 65536;
  bool search = false, speed = true, quick_l12 = true;
  std::string json;
};

// Unit power exactly, so that the sampling error of the source's power is not measured.
std::vector<float> Source(size_t n, uint64_t seed) {
  Random random(seed, "gaussian source");
  std::vector<double> values(n);
  double power = 0;
  for (double& value : values) {
    value = random.NextNormal();
    power += value * value;
  }
  std::vector<float> unit(n);
  const double factor = 1 / std::sqrt(power / static_cast<double>(n));
  for (size_t i = 0; i < n; ++i) unit[i] = static_cast<float>(values[i] * factor);
  return unit;
}

// Processor time of this thread: other work on the machine counts less.
double ThreadSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Measured {
  double mse, values_per_s;
};

Measured Measure(const TrellisEncoder& encoder, const std::vector<float>& source, double ratio) {
  const size_t tile = encoder.shape().values(), count = source.size() / tile;
  const auto unit = static_cast<float>(ratio / trellis::kValueSigma);
  std::vector<float> tiles(count * tile), decoded(count * tile);
  for (size_t i = 0; i < tiles.size(); ++i) tiles[i] = source[i] / unit;
  std::vector<uint8_t> codes(count * encoder.shape().bytes());
  auto scratch = encoder.MakeScratch();
  if (!scratch.ok()) std::exit(1);
  const double start = ThreadSeconds();
  encoder.Encode(tiles.data(), count, *scratch, codes.data(), decoded.data());
  const double seconds = ThreadSeconds() - start;
  double error = 0;
  for (size_t i = 0; i < tiles.size(); ++i) {
    const double difference = source[i] - static_cast<double>(unit) * decoded[i];
    error += difference * difference;
  }
  return {error / static_cast<double>(tiles.size()), static_cast<double>(tiles.size()) / seconds};
}

std::string Name(Code code) {
  return fmt::format("V={} k={} L={}", code.values, code.bits, code.state_bits);
}

// Moves to the bottom of a parabola through five scales, then looks closer.
double SearchScale(const TrellisEncoder& encoder, const std::vector<float>& source, double guess) {
  double best = guess, step = 0.05;
  for (int round = 0; round < 3; ++round, step /= 2.5) {
    double errors[5];
    int low = 0;
    for (int i = 0; i < 5; ++i) {
      errors[i] = Measure(encoder, source, best + step * (i - 2)).mse;
      if (errors[i] < errors[low]) low = i;
    }
    // Least squares parabola over the five points: error = a + b t + c t^2, t = -2 .. 2.
    double b = 0, c = 0;
    for (int i = 0; i < 5; ++i) {
      b += (i - 2) * errors[i] / 10;
      c += ((i - 2) * (i - 2) - 2) * errors[i] / 14;
    }
    const double t = c > 0 ? std::clamp(-b / (2 * c), -2.0, 2.0) : low - 2;
    best += step * t;
  }
  return best;
}

void Search(const Options& options) {
  for (int state_bits : {12, 16}) {
    const std::vector<float> source = Source(options.values, 1), fresh = Source(options.values, 2);
    for (Row row : kRows) {
      row.code.state_bits = state_bits;
      auto encoder = TrellisEncoder::Create(row.code);
      if (!encoder.ok()) std::exit(1);
      const double ratio = SearchScale(*encoder, source, BestScale(row.code));
      std::printf("%s  best %.4f  mse %.4g  fresh %.4g\n", Name(row.code).c_str(), ratio,
                  Measure(*encoder, source, ratio).mse, Measure(*encoder, fresh, ratio).mse);
      std::fflush(stdout);
    }
  }
}

nlohmann::json Distortion(const Options& options) {
  nlohmann::json rows = nlohmann::json::array();
  const std::vector<float> source = Source(options.values, 3);
  std::printf("%-16s %6s %9s %9s %9s %8s %8s\n", "code", "bits", "shannon", "design", "measured",
              "ratio", "Mval/s");
  for (int state_bits : {16, 12}) {
    for (Row row : kRows) {
      row.code.state_bits = state_bits;
      auto encoder = TrellisEncoder::Create(row.code);
      if (!encoder.ok()) std::exit(1);
      const Measured measured = Measure(*encoder, source, BestScale(row.code));
      const double shannon = std::pow(2, -2 * row.code.rate());
      std::printf("%-16s %6.2f %9.4g %9.4g %9.4g %8.4f %8.3f\n", Name(row.code).c_str(),
                  row.code.rate(), shannon, row.design, measured.mse, measured.mse / row.design,
                  measured.values_per_s * 1e-6);
      std::fflush(stdout);
      rows.push_back({{"code", Name(row.code)},
                      {"bits", row.code.rate()},
                      {"shannon", shannon},
                      {"design", row.design},
                      {"mse", measured.mse},
                      {"values", source.size()},
                      {"isa", IsaName(CurrentIsa())},
                      {"values_per_s", measured.values_per_s}});
    }
  }
  return rows;
}

nlohmann::json Speed() {
  nlohmann::json rows = nlohmann::json::array();
  std::printf("\nencoder, Mvalues/s on one core (median of 3)\n%-16s", "code");
  std::vector<Isa> levels;
  for (Isa isa : {Isa::kAvx512, Isa::kAvx2Vnni, Isa::kAvx2, Isa::kReference}) {
    if (IsaSupported(isa)) levels.push_back(isa);
  }
  for (Isa isa : levels) std::printf(" %10s", std::string(IsaName(isa)).c_str());
  std::printf("\n");
  for (int state_bits : {16, 12}) {
    for (Row row : kRows) {
      row.code.state_bits = state_bits;
      std::printf("%-16s", Name(row.code).c_str());
      for (Isa isa : levels) {
        auto encoder = TrellisEncoder::Create(row.code, isa);
        if (!encoder.ok()) std::exit(1);
        const size_t tiles = isa == Isa::kReference ? 1 : state_bits == 16 ? 8 : 64;
        const std::vector<float> source = Source(tiles * encoder->shape().values(), 4);
        double speeds[3];
        for (double& speed : speeds) {
          speed = Measure(*encoder, source, BestScale(row.code)).values_per_s;
          if (isa == Isa::kReference) speeds[1] = speeds[2] = speed;
          if (isa == Isa::kReference) break;
        }
        std::sort(speeds, speeds + 3);
        std::printf(" %10.3f", speeds[1] * 1e-6);
        std::fflush(stdout);
        rows.push_back(
            {{"code", Name(row.code)}, {"isa", IsaName(isa)}, {"values_per_s", speeds[1]}});
      }
      std::printf("\n");
    }
  }
  return rows;
}

int Run(const Options& options) {
  if (options.search) {
    Search(options);
    return 0;
  }
  nlohmann::json report;
  report["distortion"] = Distortion(options);
  if (options.speed) report["encoder"] = Speed();
  if (!options.json.empty()) {
    std::ofstream out(options.json);
    out << report.dump(2) << "\n";
    if (!out.flush()) {
      std::fprintf(stderr, "bench_codec: cannot write %s\n", options.json.c_str());
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace tq

int main(int argc, char** argv) {
  tq::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool more = i + 1 < argc;
    if (argument == "--search") {
      options.search = true;
    } else if (argument == "--no-speed") {
      options.speed = false;
    } else if (argument == "--values" && more) {
      options.values = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--json" && more) {
      options.json = argv[++i];
    } else {
      std::fprintf(stderr,
                   "usage: bench_codec [--values N] [--no-speed] [--search] [--json FILE]\n");
      return 2;
    }
  }
  return tq::Run(options);
}
