// Run a package of `puredit export` in C++: torch's headers and libraries are all it needs, and they come with torch.
//
//   T=$(python -c "import torch; print(torch.__path__[0])")
//   g++ -std=c++20 -I $T/include -I $T/include/torch/csrc/api/include examples/run_exported.cpp -o run_exported
//       -L $T/lib -ltorch_cpu -ltorch -lc10 -Wl,-rpath,$T/lib
//   ./run_exported run.json run-start.safetensors latents.bin       # the numbers of the latents, row by row
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <regex>

using Tensors = std::map<std::string, at::Tensor>;
const std::map<std::string, at::ScalarType> types{{"F64", at::kDouble}, {"F32", at::kFloat}, {"BF16", at::kBFloat16},
    {"F16", at::kHalf}, {"F8_E4M3", at::kFloat8_e4m3fn}, {"I64", at::kLong}, {"I32", at::kInt}, {"I8", at::kChar},
    {"U8", at::kByte}, {"BOOL", at::kBool}};

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::smatch> all(const std::string& text, const char* pattern) {
  const std::regex form(pattern);
  return {std::sregex_iterator(text.begin(), text.end(), form), {}};
}

Tensors read(const std::filesystem::path& path) {  // safetensors: the length of a JSON header, the header, the numbers
  const std::string bytes = contents(path);
  const size_t length = *reinterpret_cast<const uint64_t*>(bytes.data());
  const std::string header = bytes.substr(8, length);
  Tensors found;
  for (auto& m : all(header, R"x("([^"]+)":\{"dtype":"(\w+)","shape":\[([\d,]*)\],"data_offsets":\[(\d+),)x")) {
    std::vector<int64_t> shape;
    const std::string sizes = m[3];
    for (auto& size : all(sizes, R"(\d+)")) shape.push_back(std::stoll(size[0]));
    char* data = const_cast<char*>(bytes.data()) + 8 + length + std::stoull(m[4]);
    found[m[1]] = at::from_blob(data, shape, types.at(m[2])).clone();
  }
  return found;
}

std::string entry(const std::string& text, const std::string& indent, const std::string& name) {  // a key and its value
  const std::string line = "\n" + indent + "\"";
  const size_t from = text.find(line + name + "\": ");
  return text.substr(from, text.find(line, from + 1) - from);
}

std::string value(const std::string& key) { return all(key, R"x(": "?([^",]+))x").at(0)[1].str(); }

std::vector<at::Tensor> take(const Tensors& from, const std::string& listed, const std::string& prefix) {
  std::vector<at::Tensor> taken;
  for (auto& m : all(listed, R"x("name": "([^"]+)")x")) taken.push_back(from.at(prefix + m[1].str()));
  return taken;
}

int main(int, char** words) {
  const std::filesystem::path file = words[1], folder = file.parent_path();
  const std::string layout = contents(file), top = "  ", inner = "      ", open = "\n    {";
  const std::string parts = entry(layout, top, "parts"), shares = entry(layout, top, "latents");
  const Tensors start = read(words[2]), inputs = read(folder / value(entry(layout, top, "inputs_file")));
  const std::string outside = value(entry(layout, top, "weights_file"));
  const Tensors stored = outside == "null" ? Tensors{} : read(folder / outside);
  Tensors carry;  // what the solver remembers, from which the latents are read
  for (size_t at = parts.find(open), next; at != std::string::npos; at = next) {  // one part, or one for each expert
    next = parts.find(open, at + 1);
    const std::string part = parts.substr(at, next - at), weights = entry(part, inner, "weights");
    const std::string listed = entry(part, inner, "inputs"), numbers = entry(part, inner, "steps");
    const std::string prefix = all(entry(part, inner, "prefix"), R"x(: "([^"]*)")x").at(0)[1];
    torch::inductor::AOTIModelPackageLoader step((folder / value(entry(part, inner, "package"))).string());
    std::vector<at::Tensor> given;  // to every step: weights that are outside, and what the prompt became
    const std::string names = weights.substr(weights.find('['));
    for (auto& m : all(names, R"x("([^"]+)")x")) given.push_back(stored.at(m[1]));
    for (auto& each : take(start, entry(part, inner, "fixed"), prefix)) given.push_back(each);
    const std::string moves = entry(part, inner, "moving");
    const auto moved = all(moves, R"x("name": "([^"]+)")x");
    std::vector<at::Tensor> moving = take(start, moves, prefix);
    for (size_t i = 0; i < moved.size(); ++i)
      if (carry.count(moved[i][1])) moving[i] = carry.at(moved[i][1]);
    for (auto& number : all(numbers, R"(\d+)")) {
      std::vector<at::Tensor> arguments = given;
      arguments.insert(arguments.end(), moving.begin(), moving.end());
      for (auto& each : take(inputs, listed, number[0].str() + ".")) arguments.push_back(each);
      const std::vector<at::Tensor> made = step.run(arguments);
      moving.assign(made.begin(), made.end() - 2);  // the last two: whether the step was computed, and the change
      std::cout << (made[made.size() - 2].item<bool>() ? '#' : '.') << std::flush;
    }
    for (size_t i = 0; i < moved.size(); ++i)
      if (shares.find("\"" + moved[i][1].str() + "\"") != std::string::npos) carry[moved[i][1]] = moving[i].clone();
  }
  std::cout << " (# computed, . skipped)\n";
  at::Tensor latents = at::zeros_like(carry.begin()->second);  // a weighted sum of what the solver carries
  for (auto& m : all(shares, R"x("([^"]+)": ([-\d.e]+))x")) latents += carry.at(m[1]) * std::stod(m[2]);
  std::cout << "mean " << latents.mean().item<double>() << ", deviation " << latents.std().item<double>() << '\n';
  latents = latents.contiguous();
  std::ofstream(words[3], std::ios::binary).write(static_cast<char*>(latents.data_ptr()), latents.nbytes());
}
