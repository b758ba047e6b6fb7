# The suite in a container, by the two commands of the README.
#   CPU:   docker build --build-arg TORCH=cpu -t diffi2i . && docker run --rm -v "$PWD/outputs:/diffi2i/outputs" diffi2i make demo
#   CUDA:  docker build -t diffi2i . && docker run --rm --gpus all --shm-size 8g diffi2i make test
# PyTorch's default build for Linux brings its CUDA libraries; the host needs the driver and NVIDIA's container toolkit.
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make gcc libc6-dev git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /diffi2i
# In a layer of its own: a change of the code does not install everything anew.
COPY Makefile pyproject.toml requirements.lock README.md LICENSE ./
ARG TORCH=
RUN make packages TORCH=$TORCH
COPY . .
RUN make install TORCH=$TORCH
ENV PATH="/diffi2i/.venv/bin:$PATH"
CMD ["diffi2i", "--help"]
