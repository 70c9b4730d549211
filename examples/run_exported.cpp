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
    {"F16", at::kHalf}, {"I64", at::kLong}, {"I32", at::kInt}, {"U8", at::kByte}, {"BOOL", at::kBool}};

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

int main(int, char** words) {
  const std::filesystem::path file = words[1], folder = file.parent_path();
  const std::string layout = contents(file);
  auto part = [&](const std::string& name) {  // a key of the JSON file and its value
    const size_t from = layout.find("\n  \"" + name + "\": ");
    return layout.substr(from, layout.find("\n  \"", from + 1) - from);
  };
  auto value = [&](const std::string& name) { return all(part(name), R"x(": "?([^",]+))x").at(0)[1].str(); };
  auto take = [&](const Tensors& from, const std::string& name, std::vector<at::Tensor>& to, const std::string& step) {
    const std::string listed = part(name);
    for (auto& m : all(listed, R"x("name": "([^"]+)")x")) to.push_back(from.at(step + m[1].str()));
  };
  torch::inductor::AOTIModelPackageLoader step((folder / value("package")).string());
  std::vector<at::Tensor> given, moving;  // given to every step: weights that are outside, and what the prompt became
  const std::string outside = part("weights");
  if (outside.find("null") == std::string::npos) {
    const Tensors weights = read(folder / all(outside, R"x("file": "([^"]+)")x").at(0)[1].str());
    const std::string names = outside.substr(outside.find('['));
    for (auto& m : all(names, R"x("([^"]+)")x")) given.push_back(weights.at(m[1]));
  }
  const Tensors start = read(words[2]), inputs = read(folder / value("inputs_file"));
  take(start, "fixed", given, "");
  take(start, "moving", moving, "");
  for (int number = 0; number < std::stoi(value("steps")); ++number) {
    std::vector<at::Tensor> arguments = given;
    arguments.insert(arguments.end(), moving.begin(), moving.end());
    take(inputs, "inputs", arguments, std::to_string(number) + ".");
    const std::vector<at::Tensor> made = step.run(arguments);
    moving.assign(made.begin(), made.end() - 2);  // the last two: whether the step was computed, and the change
    std::cout << (made[made.size() - 2].item<bool>() ? '#' : '.') << std::flush;
  }
  std::cout << " (# computed, . skipped)\n";
  at::Tensor latents;  // those after the last step are a weighted sum of what the solver carries
  const std::string shares = part("latents"), order = part("moving");
  const auto names = all(order, R"x("name": "([^"]+)")x");
  for (auto& m : all(shares, R"x("([^"]+)": ([-\d.e]+))x"))
    for (size_t at = 0; at < names.size(); ++at)
      if (names[at][1] == m[1])
        latents = latents.defined() ? latents + moving[at] * std::stod(m[2]) : moving[at] * std::stod(m[2]);
  std::cout << "mean " << latents.mean().item<double>() << ", deviation " << latents.std().item<double>() << '\n';
  latents = latents.contiguous();
  std::ofstream(words[3], std::ios::binary).write(static_cast<char*>(latents.data_ptr()), latents.nbytes());
}
