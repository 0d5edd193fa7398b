// Detect the objects in an image with an exported ONNX file. Requires only OpenCV with its dnn module.
//
//     ./detect model.onnx image.jpg
//
// The graph in the file has one input: `image` [1, H, W, 3] uint8 RGB, the letterboxed image. The graph has two
// outputs: `boxes` [1, P, 4] (x1, y1, x2, y2 in input pixels) and `scores` [1, P, C] from 0 to 1, for P grid points and
// C classes. The metadata of the file contains the input size (H, W) and the C class names.
//
// The program prints one JSON object per detected object, sorted by descending score. Boxes are in image pixels.

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <numeric>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

const float SCORE_THRESHOLD = 0.25f;  // detections have a higher score than this
const float IOU_THRESHOLD = 0.6f;     // NMS: boxes of the same class with a higher IoU belong to the same object
const size_t MAX_DETECTIONS = 300;    // largest number of detections per image

// Return the JSON text that the metadata of the ONNX file contains for a key. OpenCV's dnn module cannot read metadata,
// but the text is unencoded in the file: newline, length of the key, key, 0x12, length of the text (7 bits per byte,
// lowest bits first), text.
std::string metadata(const std::string& file, const std::string& key) {
    const std::string prefix = "\n" + std::string(1, char(key.size())) + key + '\x12';
    size_t at = file.find(prefix), length = 0;
    if (at == std::string::npos) CV_Error(cv::Error::StsParseError, "no " + key + " in the ONNX metadata");
    at += prefix.size();
    for (int shift = 0;; shift += 7) {
        length |= size_t(file.at(at) & 127) << shift;
        if (!(file.at(at++) & 128)) return file.substr(at, length);
    }
}

// Return the strings of the JSON list ["a", "b", ...]. The returned strings still have their quotes and escapes.
std::vector<std::string> split(const std::string& list) {
    std::vector<std::string> texts;
    for (size_t i = 0, start = 0; i < list.size(); ++i) {
        if (list[i] == '\\') {
            ++i;  // an escaped character does not end the string
        } else if (list[i] == '"' && start == 0) {
            start = i;
        } else if (list[i] == '"') {
            texts.push_back(list.substr(start, i + 1 - start));
            start = 0;
        }
    }
    return texts;
}

int main(int count, char** arguments) try {
    if (count != 3) return std::fprintf(stderr, "usage: detect model.onnx image.jpg\n"), 2;
    std::ifstream stream(arguments[1], std::ios::binary);
    const std::string file((std::istreambuf_iterator<char>(stream)), {});
    if (file.empty()) return std::fprintf(stderr, "%s: the file is missing or empty\n", arguments[1]), 2;
    int input_h = 0, input_w = 0;
    std::sscanf(metadata(file, "input_hw").c_str(), "[%d, %d]", &input_h, &input_w);
    const std::vector<std::string> names = split(metadata(file, "class_names"));
    const cv::Mat image = cv::imread(arguments[2]);  // BGR, EXIF orientation applied
    if (image.empty()) return std::fprintf(stderr, "%s: missing, or not a readable image\n", arguments[2]), 2;

    // Letterbox: scale the image to fit into the input, round its size to whole pixels, and center it on gray 114.
    // cvRound rounds halves to even.
    const int h = image.rows, w = image.cols;
    const double scale = std::min(double(input_h) / h, double(input_w) / w);
    const int inner_h = std::clamp(cvRound(h * scale), 1, input_h);
    const int inner_w = std::clamp(cvRound(w * scale), 1, input_w);
    const int left = (input_w - inner_w) / 2, top = (input_h - inner_h) / 2;
    const int mode = inner_h < h ? cv::INTER_AREA : cv::INTER_LINEAR;  // INTER_AREA averages the covered pixels
    cv::Mat input(input_h, input_w, CV_8UC3, cv::Scalar::all(114));
    cv::Mat inner = input(cv::Rect(left, top, inner_w, inner_h));
    cv::resize(image, inner, inner.size(), 0, 0, mode);
    cv::cvtColor(input, input, cv::COLOR_BGR2RGB);

    cv::dnn::Net net = cv::dnn::readNetFromONNX(file.data(), file.size());
    net.setInput(cv::Mat(std::vector<int>{1, input_h, input_w, 3}, CV_8U, input.data), "image");
    std::vector<cv::Mat> outputs;
    net.forward(outputs, std::vector<cv::String>{"boxes", "scores"});
    for (cv::Mat& output : outputs) output.convertTo(output, CV_32F);
    const int points = outputs[0].size[1], classes = outputs[1].size[2];
    const cv::Mat input_boxes = outputs[0].reshape(1, points), all_scores = outputs[1].reshape(1, points);

    // Each grid point predicts its best class. Map each box from the input to the image and clip it to the image.
    std::vector<cv::Rect2f> boxes;
    std::vector<float> scores;
    std::vector<int> class_ids;
    for (int i = 0; i < points; ++i) {
        const float* row = all_scores.ptr<float>(i);
        const float* best = std::max_element(row, row + classes);
        const float* side = input_boxes.ptr<float>(i);
        const float kx = float(w) / inner_w, ky = float(h) / inner_h;
        const cv::Point2f from((side[0] - left) * kx, (side[1] - top) * ky);
        const cv::Point2f to((side[2] - left) * kx, (side[3] - top) * ky);
        const cv::Rect2f box = cv::Rect2f(from, to) & cv::Rect2f(0, 0, float(w), float(h));
        if (*best <= SCORE_THRESHOLD || box.area() <= 0) continue;
        boxes.push_back(box);
        scores.push_back(*best);
        class_ids.push_back(int(best - row));
    }

    // NMS: process the boxes by descending score. Keep a box unless it overlaps a kept box of its class too much.
    std::vector<size_t> order(boxes.size()), kept;
    std::iota(order.begin(), order.end(), size_t(0));
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    for (size_t i : order) {
        const bool keep = std::none_of(kept.begin(), kept.end(), [&](size_t k) {
            const float intersection = (boxes[k] & boxes[i]).area();
            const float union_area = boxes[k].area() + boxes[i].area() - intersection;
            return class_ids[k] == class_ids[i] && intersection > IOU_THRESHOLD * union_area;
        });
        if (keep && kept.size() < MAX_DETECTIONS) kept.push_back(i);
    }
    for (size_t i : kept) {
        const cv::Point2f from = boxes[i].tl(), to = boxes[i].br();
        std::printf("{\"class\": %s, \"score\": %.5f, \"box\": [%.3f, %.3f, %.3f, %.3f]}\n",
                    names.at(class_ids[i]).c_str(), scores[i], from.x, from.y, to.x, to.y);
    }
} catch (const std::exception& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
}
