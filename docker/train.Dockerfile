# Training on GPU nodes: docker build -f docker/train.Dockerfile -t posttrain .
#   docker run --gpus all --ipc host -v "$PWD:/work" posttrain train recipes/oreal/gsm8k-0.5b.yaml
# It runs as user 1000, who must be able to write into the folder at /work; another: --user "$(id -u)" -e HOME=/tmp
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PATH=/opt/posttrain/bin:$PATH
# A version of Ubuntu's goes with its next security update, and a pinned one could not be built again.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv python3-dev g++ git libseccomp2 \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/posttrain \
    && useradd --create-home --non-unique --uid 1000 trainer

# The largest part is a layer of its own: it stays when the code changes.
RUN pip install vllm==0.32.0

COPY . /src
RUN pip install '/src[vllm,deepspeed]' && rm -rf /src

USER 1000
WORKDIR /work
ENTRYPOINT ["posttrain"]
