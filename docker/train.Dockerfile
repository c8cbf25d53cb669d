# Training on GPU nodes: docker build -f docker/train.Dockerfile -t posttrain .
#   docker run --gpus all --ipc host -v "$PWD:/work" posttrain train recipes/oreal/gsm8k-0.5b.yaml
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PATH=/opt/posttrain/bin:$PATH
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv python3-dev g++ git libseccomp2 \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/posttrain

COPY . /src
RUN pip install '/src[vllm,deepspeed]' && rm -rf /src

WORKDIR /work
ENTRYPOINT ["posttrain"]
