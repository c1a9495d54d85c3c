// Which geometries and accumulators can be emulated.
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "emulate.hpp"

namespace oaq {
namespace {

// Keeps all address arithmetic far from 2^63.
constexpr std::int64_t kLargestParameter = std::int64_t{1} << 20;
constexpr std::int64_t kLargestArray = std::int64_t{1} << 40;

void require(bool holds, const char* field, std::int64_t found, const std::string& expected) {
    if (!holds) {
        throw std::invalid_argument(std::string(field) + ": found " + std::to_string(found) + ", expected " + expected);
    }
}

void require_product(std::initializer_list<std::int64_t> factors, const char* what) {
    std::int64_t product = 1;
    for (std::int64_t factor : factors) {
        if (factor > 0 && product > kLargestArray / factor) {
            throw std::invalid_argument(std::string(what) + ": more than 2^40 elements");
        }
        product *= factor;
    }
}

std::int64_t output_size(std::int64_t padded, std::int64_t kernel, std::int64_t stride, std::int64_t dilation) {
    return (padded - dilation * (kernel - 1) - 1) / stride + 1;
}

}  // namespace

std::int64_t Geometry::output_height() const { return output_size(padded_height(), kernel_h, stride_h, dilation_h); }
std::int64_t Geometry::output_width() const { return output_size(padded_width(), kernel_w, stride_w, dilation_w); }

void validate(const Geometry& g, int zero_point, const Policy& policy) {
    for (const std::int64_t size : {g.height, g.width, g.channels}) require(size > 0, "x", size, "sizes of at least 1");
    for (const std::int64_t size : {g.outputs, g.kernel_h, g.kernel_w, g.group_inputs}) {
        require(size > 0, "weight", size, "sizes of at least 1");
    }
    const auto within = [](std::int64_t value, std::int64_t least) { return value >= least && value <= kLargestParameter; };
    for (const std::int64_t value : {g.stride_h, g.stride_w}) require(within(value, 1), "stride", value, "1 to 2^20");
    for (const std::int64_t value : {g.padding_h, g.padding_w, g.padding_bottom, g.padding_right})
        require(within(value, 0), "padding", value, "0 to 2^20");
    for (const std::int64_t value : {g.dilation_h, g.dilation_w}) require(within(value, 1), "dilation", value, "1 to 2^20");
    require(within(g.groups, 1), "groups", g.groups, "1 to 2^20");
    require(g.outputs % g.groups == 0, "weight", g.outputs, "outputs that are a multiple of groups");
    require(g.channels % g.groups == 0 && g.channels / g.groups == g.group_inputs, "x", g.channels,
            std::to_string(g.groups) + " groups of " + std::to_string(g.group_inputs) + " channels, as weight has");
    require(zero_point >= 0 && zero_point <= 255, "zero_point", zero_point, "0 to 255");
    require(policy.bits >= 8 && policy.bits <= 32, "bits", policy.bits, "8 to 32");
    require(policy.lanes >= 1, "lanes", policy.lanes, "at least 1");
    require(policy.block >= 0, "block", policy.block, "at least 1, or none");
    require(policy.lanes == 1 || policy.block == 0, "lanes", policy.lanes, "1 where block is given");
    require_product({g.kernel_h, g.dilation_h}, "weight");
    require_product({g.kernel_w, g.dilation_w}, "weight");
    require(g.dilation_h * (g.kernel_h - 1) < g.padded_height(), "x", g.height, "a padded height that holds the kernel");
    require(g.dilation_w * (g.kernel_w - 1) < g.padded_width(), "x", g.width, "a padded width that holds the kernel");
    require_product({g.padded_height(), g.padded_width(), g.channels}, "padded x");
    require_product({g.images, g.output_height(), g.output_width(), g.outputs}, "output");
    require_product({g.outputs, g.kernel_h, g.kernel_w, g.group_inputs, kEmulatedTile}, "weight");
}

}  // namespace oaq
